"""Golden pictures: few, small, of different classes, as they came."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lensmount_adapters.golden import MAX_SIDE
from lensmount_adapters.pictures import decode_picture
from lensmount_training.data import Dataset, Facts, Picture
from lensmount_training.data.files import read_file
from lensmount_training.data.listing import Entry
from lensmount_training.specimens import COUNT, read_specimens


def data(folder: Path, labels: list[tuple[int, ...]], side: int = 20) -> Dataset:
    """A data set of drawn pictures, one for each of `labels`."""
    pictures, entries = [], {}
    for number, own in enumerate(labels):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side // 2, 3)).astype(np.uint8)
        name = f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
        pictures.append(Picture(name, own, str(number), "", "", Facts(side, side, 0.5, 1)))
        entries[name] = Entry(name, ("x",), partial(read_file, folder / name))
    return Dataset(folder, "multi_label", ("a", "b", "c", "d", "e", "f"), tuple(pictures), torch.empty(0), (), entries)


def test_the_first_of_each_label(tmp_path: Path) -> None:
    dataset = data(tmp_path, [(0,), (0,), (1,), (2,)])
    specimens = read_specimens(dataset, [picture.file for picture in dataset.pictures])
    wanted = [decode_picture((tmp_path / name).read_bytes()) for name in ("0.png", "2.png", "3.png")]
    assert all(np.array_equal(one, other) for one, other in zip(specimens, wanted, strict=True))


def test_of_the_files_that_are_given_alone(tmp_path: Path) -> None:
    dataset = data(tmp_path, [(0,), (0,), (1,)])
    (first, _) = read_specimens(dataset, ["1.png", "2.png"])
    assert np.array_equal(first, decode_picture((tmp_path / "1.png").read_bytes()))


def test_no_more_than_some(tmp_path: Path) -> None:
    dataset = data(tmp_path, [(label,) for label in range(6)])
    assert len(read_specimens(dataset, [picture.file for picture in dataset.pictures])) == COUNT


def test_pictures_without_a_label_may_be_among_them(tmp_path: Path) -> None:
    dataset = data(tmp_path, [(), (0, 1)])
    assert len(read_specimens(dataset, ["0.png", "1.png"])) == 2


@pytest.mark.parametrize("side", [MAX_SIDE, 2 * MAX_SIDE])
def test_large_ones_are_made_small(side: int, tmp_path: Path) -> None:
    (small,) = read_specimens(data(tmp_path, [(0,)], side), ["0.png"])
    assert small.shape == (MAX_SIDE, MAX_SIDE // 2, 3)
