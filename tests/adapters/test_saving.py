"""Who may read a file of tensors is what the umask says, as of every other file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from factories import manifest, pictures, random_backbone
from lensmount_adapters.golden import Golden
from lensmount_adapters.package import write_package
from lensmount_adapters.saving import save_tensors


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    tensors = {"a": torch.arange(5)}
    with umask(mask):
        save_tensors(tensors, tmp_path / "a.safetensors")
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], tensors["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    shared = torch.zeros(4)
    with pytest.raises(RuntimeError, match="share memory"):
        save_tensors({"a": shared, "b": shared}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_package_can_be_read_by_others(tmp_path: Path) -> None:
    described = manifest(random_backbone("test_vit"), "scene", 3)
    tensors = {"head.weight": torch.randn(3, 64), "head.bias": torch.randn(3)}
    with umask(0o022):
        write_package(tmp_path / "out", described, tensors, Golden(pictures(2), torch.randn(2, 3)), "")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o644}, modes
