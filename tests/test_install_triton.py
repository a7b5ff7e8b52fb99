"""tests/install-triton tells what is no fault apart from what is: a broken script does not end as tests that skip.

The wheels are small, pip is the real one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CAN_NOT = 3
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BACKEND = "pytriton/tritonserver/backends/python"
STUB = "pytriton/tritonserver/python_backend_stubs/{}/triton_python_backend_stub"
FILES = (f"{BACKEND}/libtriton_python.so", f"{BACKEND}/triton_python_backend_utils.py")


@dataclass(frozen=True)
class Checkout:
    """A folder in which the script is run, and where its wheels are taken from."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / ".triton"

    def wheel(self, *files: str) -> None:
        """A wheel of the package that the script wants, with these files in it, empty."""
        info = "nvidia_pytriton-0.7.0.dist-info"
        written = {
            **dict.fromkeys(files, ""),
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "".join(f"{name},,\n" for name in files),
        }
        with zipfile.ZipFile(self.wheels / "nvidia_pytriton-0.7.0-py3-none-any.whl", "w") as archive:
            for name, text in written.items():
                archive.writestr(name, text)

    @property
    def wheels(self) -> Path:
        return self.folder / "wheels"

    def install(self, more: Mapping[str, str]) -> int:
        """The exit status of the script; pip is told nothing but `more`."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        own |= {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", **more}
        return subprocess.run([self.folder / "tests" / "install-triton"], env=own, timeout=120, check=False).returncode

    def install_from_wheels(self) -> int:
        return self.install({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)})


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name in ("tests", "wheels"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "tests" / "install-triton", tmp_path / "tests")
    return Checkout(tmp_path)


def why_not(checkout: Checkout) -> str:
    return (checkout.home / ".why-not-2.51").read_text()


def test_no_wheel_for_this_platform_is_no_fault(checkout: Checkout) -> None:
    assert checkout.install_from_wheels() == CAN_NOT
    assert why_not(checkout).startswith("no Triton can be installed here: the package index has no nvidia-pytriton")
    assert not (checkout.home / ".ready-2.51").exists()


def test_an_index_that_does_not_answer_is_no_fault(checkout: Checkout) -> None:
    assert checkout.install({"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}) == CAN_NOT


def test_a_python_without_a_stub_is_no_fault(checkout: Checkout) -> None:
    checkout.wheel(*FILES, STUB.format("2.7"))
    assert checkout.install_from_wheels() == CAN_NOT
    assert f"not made for Python {VERSION}" in why_not(checkout)


def test_a_wheel_that_is_broken_or_holds_something_else_is_a_fault(checkout: Checkout) -> None:
    (checkout.wheels / "nvidia_pytriton-0.7.0-py3-none-any.whl").write_bytes(b"no archive")
    assert checkout.install_from_wheels() not in {0, CAN_NOT}
    checkout.wheel("pytriton/__init__.py")
    assert checkout.install_from_wheels() not in {0, CAN_NOT}
    checkout.wheel(STUB.format(VERSION))
    assert checkout.install_from_wheels() not in {0, CAN_NOT}
    assert {file.name for file in checkout.home.glob(".*")} == set()


def test_a_whole_one_is_installed_after_all(checkout: Checkout) -> None:
    assert checkout.install_from_wheels() == CAN_NOT
    checkout.wheel(*FILES, STUB.format(VERSION))
    assert checkout.install_from_wheels() == 0
    assert (checkout.home / "backends" / "python" / "triton_python_backend_stub").exists()
    assert {file.name for file in checkout.home.glob(".*")} == {".ready-2.51"}


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (CAN_NOT, 0), (1, 2), (2, 2), (127, 2)])
def test_make_takes_that_status_and_no_other_for_no_fault(tmp_path: Path, status: int, ends: int) -> None:
    recipe = re.search(r"^triton: setup.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    (tmp_path / "Makefile").write_text(f"triton:\n{recipe[1]}")
    (tmp_path / "tests").mkdir()
    script = tmp_path / "tests" / "install-triton"
    script.write_text(f"#!/bin/sh\nexit {status}\n")
    script.chmod(0o755)
    own = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    assert subprocess.run(["make", "triton"], cwd=tmp_path, env=own, check=False).returncode == ends
