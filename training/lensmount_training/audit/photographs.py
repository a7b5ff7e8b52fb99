"""Photographs that come with scikit-image and scikit-learn: what pictures look like that backbones were trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lensmount_adapters.pictures import Pixels

NAMES = ("astronaut", "camera", "chelsea", "coffee", "rocket")
CROPS = 4


def photographs() -> tuple[Pixels, ...]:
    """Seven photographs, uint8 RGB (height, width, 3): people, animals, things, buildings, landscapes."""
    # They read megabytes and bring in half of scipy; only what measures a distance needs them.
    from skimage import data  # noqa: PLC0415
    from sklearn.datasets import load_sample_images  # noqa: PLC0415

    own = [getattr(data, name)() for name in NAMES]
    coloured = [picture if picture.ndim == 3 else picture[:, :, None].repeat(3, 2) for picture in own]
    return (*coloured, *load_sample_images().images)


def crops(picture: Pixels, seed: int) -> Iterator[Pixels]:
    """Four cut-outs of 35 % of both sides and more, drawn from `seed`."""
    random = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    for share in random.uniform(0.35, 1, CROPS):
        high, wide = int(height * share), int(width * share)
        top, left = random.integers(0, height - high + 1), random.integers(0, width - wide + 1)
        yield np.ascontiguousarray(picture[top : top + high, left : left + wide])


def noise(count: int, seed: int) -> Iterator[Pixels]:
    """White noise, 224 pixels a side: as far from a photograph as a picture can be and still hold something."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.integers(0, 256, (224, 224, 3), dtype=np.uint8)
