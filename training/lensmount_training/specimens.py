"""Golden pictures: a few of the training split, small enough to travel with the package."""

from __future__ import annotations

from collections.abc import Sequence

from lensmount_adapters.golden import shrunk
from lensmount_adapters.pictures import Pixels
from lensmount_training.data.dataset import Dataset

COUNT = 4


def read_specimens(dataset: Dataset, files: Sequence[str]) -> tuple[Pixels, ...]:
    """The first of `files` with each label, `COUNT` at most, none larger than a golden picture needs to be."""
    wanted = set(files)
    first: dict[tuple[int, ...], str] = {}
    for picture in dataset.pictures:
        if picture.file in wanted:
            first.setdefault(picture.labels[:1], picture.file)
    return tuple(shrunk(dataset.original(file)) for file in list(first.values())[:COUNT])
