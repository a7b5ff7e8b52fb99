"""Small picture files for tests of what reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encoded(seed: int, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A picture of 32x24 pixels of noise as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def fill(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of `count` pictures: 0.png, 1.png, …; each seed another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encoded(seed + number))
    return folder
