"""Pictures to import with: a person's own, labelled by their folders or not, or a few drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.golden import shrunk
from lensmount_adapters.pictures import Pixels, decode_picture
from lensmount_adapters.preprocessing import Preprocessing

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_PICTURES = 2000
GOLDEN = 8
FIX = "give a folder of JPEG or PNG pictures, or one with a folder for each label"


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared rows, uint8 (n, 3, height, width), and the golden ones among them as they came: (h, w, 3).

    `targets` are indices of labels, int64 (n,); None for pictures without labels.
    """

    rows: Tensor
    targets: Tensor | None
    golden: tuple[Pixels, ...]
    drawn: bool = False


def read_pictures(folder: Path, labels: Sequence[str], preprocessing: Preprocessing) -> Pictures:
    """Read at most `MAX_PICTURES` pictures, spread over the folder; sub-folders are labels.

    Raises InvalidInputError for a folder without pictures, one that is no label, or a picture that can not be read.
    """
    files = _files(folder, labels)
    chosen = (
        [files[i * len(files) // MAX_PICTURES] for i in range(MAX_PICTURES)] if len(files) > MAX_PICTURES else files
    )
    golden = {i * len(chosen) // GOLDEN for i in range(GOLDEN)} if len(chosen) > GOLDEN else set(range(len(chosen)))
    rows, kept = [], []
    for index, (path, _) in enumerate(chosen):
        pixels = decode_picture(path.read_bytes(), field=path.name)
        rows.append(preprocessing.prepare(pixels))
        if index in golden:
            kept.append(shrunk(pixels))
    targets = [target for _, target in chosen if target is not None]
    return Pictures(torch.stack(rows), torch.tensor(targets) if targets else None, tuple(kept))


def drawn_pictures(preprocessing: Preprocessing, seed: int, count: int = 4) -> Pictures:
    """Squares in many colours, coarse and fine, that every part of a model answers to differently."""
    random = np.random.default_rng(seed)
    height, width = preprocessing.height, preprocessing.width
    shots = []
    for index in range(count):
        side = 4 << index % 4
        low, high = np.sort(random.integers(0, 256, (2, 3)), axis=0)
        coarse = random.integers(low, np.maximum(high, low + 32) + 1, (-(-height // side), -(-width // side), 3))
        fine = coarse.clip(0, 255).astype(np.uint8).repeat(side, 0).repeat(side, 1)
        shots.append(np.ascontiguousarray(fine[:height, :width]))
    rows = torch.stack([preprocessing.prepare(shot) for shot in shots])
    return Pictures(rows, None, tuple(shots), drawn=True)


def _files(folder: Path, labels: Sequence[str]) -> list[tuple[Path, int | None]]:
    """Every picture with the index of its label, or None."""
    if not folder.is_dir():
        raise InvalidInputError("no such folder", field="pictures", value=folder, fix=FIX)
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found: list[tuple[Path, int | None]] = [(path, None) for path in _pictures_in(folder.iterdir())]
    if not found:
        for own in folders:
            if own.name not in labels:
                fix = "name the folders as the labels, or put all pictures into one folder"
                raise InvalidInputError("the task has no such label", field="pictures", value=own.name, fix=fix)
            found += [(path, labels.index(own.name)) for path in _pictures_in(own.rglob("*"))]
    if not found:
        raise InvalidInputError("no pictures in it", field="pictures", value=folder, fix=FIX)
    return found


def _pictures_in(paths: Iterator[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())
