"""Golden pictures: a few of the training split, small enough to travel with the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from lensmount_adapters.pictures import Pixels
from lensmount_training.data.dataset import Dataset

COUNT = 4
MAX_SIDE = 512


def read_specimens(dataset: Dataset, files: Sequence[str]) -> tuple[Pixels, ...]:
    """The first of `files` with each label, `COUNT` at most, no side longer than `MAX_SIDE` pixels."""
    wanted = set(files)
    first: dict[tuple[int, ...], str] = {}
    for picture in dataset.pictures:
        if picture.file in wanted:
            first.setdefault(picture.labels[:1], picture.file)
    return tuple(_small(dataset.original(file)) for file in list(first.values())[:COUNT])


def _small(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    ratio = MAX_SIDE / max(height, width)
    if ratio >= 1:
        return pixels
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    scaled = F.interpolate(picture, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
