"""A data set has an identity, and parts of it keep their order, targets and content together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import random_backbone
from lensmount_training.data import Dataset, Pictures, reading
from lensmount_training.data.dataset import targets_of
from lensmount_training.data.folder import list_folder
from lensmount_training.progress import NoProgress
from stills import encoded

PREPROCESSING = random_backbone("test_vit").preprocessing


def read(folder: Path, cache: Path) -> Dataset:
    return reading.read(list_folder(folder), PREPROCESSING, cache, NoProgress())


def test_hash_follows_names_and_content(parts: Path, cache: Path) -> None:
    before = read(parts, cache).hash
    assert read(parts, cache).hash == before
    (parts / "ok" / "0.png").rename(parts / "ok" / "zero.png")
    renamed = read(parts, cache).hash
    (parts / "ok" / "zero.png").write_bytes(encoded(999))
    assert len({before, renamed, read(parts, cache).hash}) == 3


def test_hash_follows_labels_kind_and_groups(parts: Path, cache: Path) -> None:
    dataset = read(parts, cache)
    first, *others = dataset.pictures
    changed = [
        replace(dataset, labels=("hole", "fine")),
        replace(dataset, kind="multi_label"),
        replace(dataset, pictures=(replace(first, labels=(1,)), *others)),
        replace(dataset, pictures=(replace(first, labels=(0, 1)), *others)),
        replace(dataset, pictures=(replace(first, group="monday"), *others)),
        replace(dataset, pictures=tuple(others)),
    ]
    assert len({dataset.hash, *(each.hash for each in changed)}) == 7


def test_hash_knows_names_that_are_no_text(parts: Path, cache: Path) -> None:
    os.rename(parts / "ok" / "0.png", os.fsencode(parts / "ok") + b"/\xff.png")  # noqa: PTH104 bytes
    assert len(read(parts, cache).hash) == 64


def test_parts_keep_the_order_of_the_data(parts: Path, cache: Path) -> None:
    dataset = read(parts, cache)
    part = dataset.take(["ok/1.png", "hole/3.png", "ok/0.png", "hole/4.png"])
    assert len(part) == 4
    assert part.targets.tolist() == [0, 0, 1, 1]
    assert part.targets.dtype == torch.int64
    assert part.digests == tuple(dataset.pictures[place].digest for place in (3, 4, 5, 6))
    assert torch.equal(part.pixels[:], dataset.rows[3:7])
    assert torch.equal(part.pixels[torch.tensor([2, 0])], dataset.rows[torch.tensor([5, 3])])
    assert torch.equal(part.pixels[1:3], dataset.rows[4:6])


def test_some_of_a_part(parts: Path, cache: Path) -> None:
    part = read(parts, cache).take(["hole/3.png", "ok/0.png", "ok/1.png"])
    some = part.select([2, 0, 0])
    assert some.targets.tolist() == [1, 0, 0]
    assert some.digests == (part.digests[2], part.digests[0], part.digests[0])
    assert torch.equal(some.pixels[:], part.pixels[:][[2, 0, 0]])


def test_pictures_in_memory_are_named_by_their_pixels() -> None:
    pixels = torch.arange(2 * 3 * 32 * 32).to(torch.uint8).reshape(2, 3, 32, 32)
    pixels[1] += 1
    first = Pictures.of(pixels, torch.tensor([0, 1]))
    again = Pictures.of(pixels.flip(0).clone(), torch.tensor([1, 0]))
    assert len(set(first.digests)) == 2
    assert first.digests == again.digests[::-1]


def test_several_labels_or_none_are_ones_and_zeros(parts: Path, cache: Path) -> None:
    listing = list_folder(parts)
    labels: list[tuple[str, ...]] = [(), ("ok", "hole"), ("ok",), *[("hole",)] * 4, *[("ok",)] * 4]
    entries = tuple(replace(entry, labels=own) for entry, own in zip(listing.entries, labels, strict=True))
    several = replace(listing, kind="multi_label", entries=entries)
    dataset = reading.read(several, PREPROCESSING, cache, NoProgress())
    assert [picture.labels for picture in dataset.pictures[:4]] == [(), (0, 1), (1,), (0,)]
    part = dataset.take([picture.file for picture in dataset.pictures[:4]])
    assert part.targets.tolist() == [[0, 0], [1, 1], [0, 1], [1, 0]]
    assert part.targets.dtype == torch.float32
    assert torch.equal(targets_of(dataset.pictures[:4], "multi_label", 2), part.targets)


def test_a_picture_as_it_came(parts: Path, cache: Path) -> None:
    original = read(parts, cache).original("hole/0.png")
    assert original.dtype == np.uint8
    assert original.shape == (24, 32, 3)


def test_a_picture_that_is_gone_by_now(parts: Path, cache: Path) -> None:
    dataset = read(parts, cache)
    (parts / "hole" / "0.png").unlink()
    with pytest.raises(FileNotFoundError):
        dataset.original("hole/0.png")
