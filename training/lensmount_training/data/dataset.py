"""A data set that was read: pictures as the backbone sees them, and what is known of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_training.data.listing import Entry, Kind, Skipped
from lensmount_training.data.rows import Rows


@dataclass(frozen=True)
class Facts:
    """What is measured of a picture as it came.

    Pixels a side, mean luma in 0..1, and the variance of the Laplacian of the luma in 0..255, which is small where
    nothing is sharp (Pech-Pacheco et al., ICPR 2000).
    """

    width: int
    height: int
    brightness: float
    sharpness: float


@dataclass(frozen=True)
class Picture:
    """One picture: its entry's name, indices of its labels, what belongs together, SHA-256 of its content."""

    file: str
    labels: tuple[int, ...]
    digest: str
    group: str
    source: str
    facts: Facts


@dataclass(frozen=True, eq=False)
class Pictures:
    """A part of a data set: what training and evaluation see.

    `pixels` is uint8 (n, 3, height, width) of the backbone's input; `targets` int64 (n,), or float32 (n, labels) of
    zeros and ones for multi-label; `digests` name the content of every row.
    """

    pixels: Rows
    targets: Tensor
    digests: tuple[str, ...]

    @classmethod
    def of(cls, pixels: Tensor, targets: Tensor) -> Pictures:
        """Pictures that lie in memory; their pixels are their content."""
        return cls(pixels, targets, tuple(hashlib.sha256(row.numpy().data).hexdigest() for row in pixels.contiguous()))

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, places: Sequence[int]) -> Pictures:
        """Some of them, in this order."""
        index = torch.tensor(places, dtype=torch.int64)
        return Pictures(self.pixels[index], self.targets[index], tuple(self.digests[place] for place in places))


@dataclass(frozen=True, eq=False)
class Dataset:
    """The pictures of a data set in the order of their names, and what was skipped.

    `rows` are their prepared pixels in the same order; `entries` by name, to look at a picture again as it came.
    """

    folder: Path
    kind: Kind
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    rows: Rows
    skipped: tuple[Skipped, ...]
    entries: Mapping[str, Entry]

    @property
    def hash(self) -> str:
        """SHA-256 over kind, labels, and the names, labels and content of the pictures that are used."""
        digest = hashlib.sha256("\n".join((self.kind, *self.labels)).encode(errors="surrogateescape"))
        for picture in self.pictures:
            own = ",".join(self.labels[index] for index in picture.labels)
            digest.update(os.fsencode(f"\n{picture.digest} {own} {picture.group} {picture.file}"))
        return digest.hexdigest()

    def take(self, files: Sequence[str]) -> Pictures:
        """The pictures of these names, in the order of the data set."""
        wanted = set(files)
        places = [place for place, picture in enumerate(self.pictures) if picture.file in wanted]
        chosen = [self.pictures[place] for place in places]
        rows = Selected(self.rows, torch.tensor(places, dtype=torch.int64))
        return Pictures(rows, targets_of(chosen, self.kind, len(self.labels)), tuple(p.digest for p in chosen))

    def original(self, file: str) -> Pixels:
        """A picture as it came, uint8 RGB (height, width, 3); raises a LensmountError when it is gone by now."""
        return self.entries[file].read().decode()


@dataclass(frozen=True, eq=False)
class Selected:
    """Some rows of others, in an order of their own; int64 `places`."""

    rows: Rows
    places: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.rows[self.places[index]]


def targets_of(pictures: Sequence[Picture], kind: Kind, labels: int) -> Tensor:
    """Indices int64 (n,) for single-label, zeros and ones float32 (n, labels) for multi-label."""
    if kind == "single_label":
        return torch.tensor([picture.labels[0] for picture in pictures], dtype=torch.int64)
    targets = torch.zeros(len(pictures), labels)
    for row, picture in enumerate(pictures):
        targets[row, list(picture.labels)] = 1
    return targets
