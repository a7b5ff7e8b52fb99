"""Golden pictures: one of each class, small, otherwise as they are on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lensmount_training.specimens import read_specimens


def write(folder: Path, name: str, width: int, height: int) -> str:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return name


def test_the_first_of_each_class_four_at_most(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{label}/{i}.png", 20 + i, 30) for label in "abcde" for i in range(2)]
    specimens = read_specimens(tmp_path, files)
    assert [pixels.shape for pixels in specimens] == [(30, 20, 3)] * 4


def test_small_pictures_are_kept_to_the_byte(tmp_path: Path) -> None:
    (specimen,) = read_specimens(tmp_path, [write(tmp_path, "a/0.png", 512, 40)])
    assert np.array_equal(specimen, np.asarray(Image.open(tmp_path / "a/0.png")))


def test_large_pictures_are_scaled(tmp_path: Path) -> None:
    (specimen,) = read_specimens(tmp_path, [write(tmp_path, "a/0.png", 1024, 600)])
    assert specimen.shape == (300, 512, 3)
    assert specimen.dtype == np.uint8
    assert specimen.flags.c_contiguous


def test_a_narrow_strip_keeps_a_pixel(tmp_path: Path) -> None:
    (specimen,) = read_specimens(tmp_path, [write(tmp_path, "a/0.png", 4000, 2)])
    assert specimen.shape == (1, 512, 3)
