"""Surfaces of the demo: real photographs from the scikit-image wheel, in two parts that never meet.

`brick`, `grass` and `gravel` are 512 × 512 grey photographs under CC0. What the
pictures to train on are cut from (`Part.PICTURES`) and what the clip is cut from
(`Part.CLIP`) are different columns of each photograph, so nothing that the clip
shows was trained on. The photographs are grey; a tone for each surface gives them
a colour close to the real one.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from importlib import resources

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from lensmount.errors import NotFoundError

Pixels = NDArray[np.float32]
"""RGB of shape (height, width, 3), 0 to 255, not yet rounded."""

SURFACES = ("brick", "grass", "gravel")
ZOOM = 1.9
"""Pixels of a plate for one pixel of a photograph."""

_TONES = {
    "brick": ((34, 20, 18), (164, 92, 70), (246, 226, 208)),
    "grass": ((16, 24, 14), (98, 124, 62), (232, 238, 190)),
    "gravel": ((22, 24, 28), (126, 126, 124), (244, 240, 232)),
}


class Part(Enum):
    """A range of columns of each photograph: first, and one past the last."""

    PICTURES = (0, 272)
    CLIP = (280, 512)


def region(surface: str, part: Part) -> NDArray[np.uint8]:
    """The part of a photograph, grey, uint8 of shape (512, columns).

    Raises `NotFoundError` when the scikit-image wheel does not hold the photograph.
    """
    first, end = part.value
    return _photograph(surface)[:, first:end]


def cut(surface: str, part: Part, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """A piece of a surface, toned, of shape (height, width, 3).

    Place, quarter turn, flip, small rotation (8°), scale (±20 %) and tone are drawn from
    `rng`. Only pixels of the part are read: beyond its border it is mirrored.
    """
    grey = _turned(region(surface, part), rng)
    zoom = ZOOM * rng.uniform(0.85, 1.2)
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), rng.uniform(-8, 8), zoom)
    centre = matrix[:, :2] @ _place(grey.shape, (height / zoom, width / zoom), rng)
    matrix[:, 2] = np.array((width / 2, height / 2)) - centre
    piece = cv2.warpAffine(grey, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return _toned(piece, surface, rng)


@cache
def _photograph(surface: str) -> NDArray[np.uint8]:
    file = resources.files("skimage.data") / f"{surface}.png"
    if surface not in SURFACES or not file.is_file():
        raise NotFoundError(
            "no such photograph in the scikit-image wheel",
            field="surface",
            value=surface,
            fix=f"choose one of {', '.join(SURFACES)}, or reinstall it: pip install --force-reinstall scikit-image",
        )
    grey = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(grey, dtype=np.uint8)


def _turned(grey: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lies down or stands up, whatever the photograph; flipped or not."""
    turned = np.rot90(grey, 2 * int(rng.integers(2)) + 1)
    return np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)


def _place(shape: tuple[int, ...], piece: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """The middle (x, y) of a piece (height, width) inside a picture of that shape."""
    spare_y, spare_x = (max(0.0, (whole - part) / 2) for whole, part in zip(shape, piece, strict=False))
    return np.array((shape[1] / 2 + rng.uniform(-spare_x, spare_x), shape[0] / 2 + rng.uniform(-spare_y, spare_y)))


def _toned(grey: MatLike, surface: str, rng: np.random.Generator) -> Pixels:
    tones = np.array(_TONES[surface], dtype=np.float32)
    tones[1] *= rng.uniform(0.95, 1.05, 3).astype(np.float32)
    levels = 255 * (np.arange(256) / 255) ** rng.uniform(0.8, 1.25)
    table = np.stack([np.interp(levels, (0, 120, 255), tones[:, channel]) for channel in range(3)], axis=-1)
    return np.asarray(cv2.LUT(cv2.merge([grey] * 3), table.astype(np.float32)[None]), np.float32)
