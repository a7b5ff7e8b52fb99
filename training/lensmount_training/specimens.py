"""Golden pictures: a few of the training split, small enough to travel with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lensmount_adapters.pictures import Pixels, decode_picture

COUNT = 4
MAX_SIDE = 512


def read_specimens(folder: Path, files: Sequence[str]) -> tuple[Pixels, ...]:
    """The first picture of each class folder, `COUNT` at most, no side longer than `MAX_SIDE` pixels.

    `files` are paths below `folder` that start with the class.
    """
    first: dict[str, str] = {}
    for file in files:
        first.setdefault(file.split("/", 1)[0], file)
    chosen = list(first.values())[:COUNT]
    return tuple(_small(decode_picture((folder / file).read_bytes(), field=file)) for file in chosen)


def _small(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    ratio = MAX_SIDE / max(height, width)
    if ratio >= 1:
        return pixels
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    scaled = F.interpolate(picture, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
