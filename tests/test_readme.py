"""The README's commands, run as they stand there: one after the other, in a folder with a user's files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import metadata
from pathlib import Path

import pytest

from lensmount import AdapterEventKind, Client
from lensmount_training.demo.clip import ClipSettings, write_clip
from lensmount_training.demo.pictures import PictureSettings, write_pictures

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WAIT_S = 240


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def test_every_command_is_of_a_kind_that_is_tested_here() -> None:
    kinds = {shlex.split(command)[0] for command in COMMANDS}

    assert kinds == {"make", "pip", "lensmount"}


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_run_what_the_tests_run(command: str) -> None:
    dry = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert {"make demo": "lensmount demo", "make test": "pytest"}[command] in dry.stdout


@pytest.mark.parametrize("extra", re.findall(r"lensmount\[(\w+)\]", README))
def test_extras_exist(extra: str) -> None:
    assert extra in (metadata("lensmount").get_all("Provides-Extra") or [])


def test_pictures_and_documents_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)

    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's reader has: parts/, part.jpg, line.mp4."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.move(
        write_pictures(folder / "drawn", PictureSettings(per_defect=20, per_surface=1)).defect, folder / "parts"
    )
    shutil.copy(next((folder / "parts" / "hole").iterdir()), folder / "part.jpg")
    clip = write_clip(folder / "filmed", ClipSettings(rounds=1, frames_per_plate=5))
    shutil.move(clip.video, folder / "line.mp4")
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    own = {
        "LENSMOUNT_ADDRESS": address,
        "LENSMOUNT_SERVER": address,
        "LENSMOUNT_DATA_DIR": str(folder / "data"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {**os.environ, **own}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_own_pictures_to_a_live_task(folder: Path, environment: dict[str, str]) -> None:
    running: list[subprocess.Popen[str]] = []
    try:
        for command in (line for line in COMMANDS if line.startswith("lensmount ")):
            if command == "lensmount serve":
                running.append(started(command, folder, environment))
                Client(environment["LENSMOUNT_SERVER"]).wait_ready(WAIT_S)
            elif command == "lensmount adapters watch":
                with watched(f"{command} --after 0 --json", folder, environment) as lines:
                    assert '"registered"' in next(lines)
            elif command.startswith("lensmount watch"):
                look_and_leave(f"{command} --json", folder, environment)
            else:
                done = subprocess.run(
                    shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        run_python(folder, environment)
        with Client(environment["LENSMOUNT_SERVER"]) as client:
            assert client.adapter("defect").version == 2
            assert client.sources() == []
            assert client.adapter("defect:1").pin_reason == "the one before"
            assert [event.kind for event in client.events("defect", "live")][:3] == [
                AdapterEventKind.ALIAS_SET,
                AdapterEventKind.ROLLED_BACK,
                AdapterEventKind.ALIAS_SET,
            ]
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 0


def started(command: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(shlex.split(command), cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL)


def look_and_leave(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Read the first lines of a command that runs until Ctrl-C, then press it."""
    with watched(command, folder, environment) as lines:
        assert '"defect"' in "".join(next(lines) for _ in range(4))


@contextmanager
def watched(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Iterator[str]]:
    with subprocess.Popen(
        shlex.split(command), cwd=folder, env=environment, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        try:
            yield iter(process.stdout)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 130


def run_python(folder: Path, environment: dict[str, str]) -> None:
    (code,) = blocks("python")
    local = code.replace("localhost:50051", environment["LENSMOUNT_SERVER"])
    assert local != code
    done = subprocess.run(
        [sys.executable, "-c", local], cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    assert "by version 2" in done.stdout
