"""Compilers by their names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from factories import random_backbone
from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_server.engine.cpu.compilers import NAMES, make_compiler


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_compiler_is_what_it_was_asked_for(name: str, precision: str) -> None:
    compiler = make_compiler(random_backbone("test_resnet"), name, precision, 2)
    assert (compiler.name, compiler.precision) == (name, precision)
    assert compiler.lanes == (2 if name == "openvino" else 1)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match="no such engine") as caught:
        make_compiler(random_backbone("test_resnet"), "tensorrt", "fp32", 1)
    assert (caught.value.field, caught.value.value) == ("engine", "tensorrt")
    assert all(name in caught.value.fix for name in NAMES)


def test_without_openvino_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match="not installed") as caught:
        make_compiler(random_backbone("test_resnet"), "openvino", "fp32", 1)
    assert "--engine torch" in caught.value.fix
    assert make_compiler(random_backbone("test_resnet"), "torch", "fp32", 1).name == "torch"


LIGHT = """
import sys
from lensmount_adapters.backbones.backbone import create_model, wrap
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.settings import EngineSettings

backbone = wrap(create_model("test_resnet"), "test_resnet")
for engine in ("reference", "torch", "openvino"):
    open_engine(backbone, EngineSettings(engine, "fp32", threads=1)).close()
    print(engine, any(name.partition(".")[0] == "openvino" for name in sys.modules))
"""


def test_openvino_is_only_loaded_by_those_who_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    ended = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["reference False", "torch False", "openvino True"]
