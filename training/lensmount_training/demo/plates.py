"""Plates: pieces of a surface with at most one defect, and the belt that carries them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from lensmount_training.demo.boxes import Box
from lensmount_training.demo.defects import Stroke, draw
from lensmount_training.demo.surfaces import Part, Pixels, cut

HEIGHT, WIDTH = 400, 470
GAP = 50
"""Pixels of belt between two plates."""
PITCH = WIDTH + GAP

_BELT = np.array((43, 45, 49), np.float32)
_EDGE = 5
_SHADOW = 14


@dataclass(frozen=True, eq=False)
class Plate:
    """A surface of HEIGHT × WIDTH pixels; `box` is where its defect is, None for `ok`."""

    surface: str
    defect: str
    pixels: Pixels
    box: Box | None


@dataclass(frozen=True)
class Order:
    """What a plate shall be; the defect lies up to `spread` (x, y) pixels off its middle."""

    surface: str
    defect: str
    strength: float
    spread: tuple[float, float] = (85.0, 85.0)


def make_plate(order: Order, part: Part, rng: np.random.Generator) -> Plate:
    """Cuts a plate from a part of a photograph and draws its defect."""
    pixels = cut(order.surface, part, HEIGHT, WIDTH, rng)
    reach_x, reach_y = order.spread
    centre = (WIDTH / 2 + rng.uniform(-reach_x, reach_x), HEIGHT / 2 + rng.uniform(-reach_y, reach_y))
    box = draw(order.defect, pixels, centre, Stroke(order.strength, rng))
    _bevel(pixels)
    return Plate(order.surface, order.defect, pixels, box)


def lay_out(plates: Sequence[Plate]) -> Pixels:
    """A belt with the plates side by side: shape (HEIGHT, PITCH × plates, 3).

    Plate i's left edge is at x = `plate_left(i)`.
    """
    belt = np.tile(_belt(), (1, len(plates), 1))
    for index, plate in enumerate(plates):
        left = plate_left(index)
        belt[:, left : left + WIDTH] = plate.pixels
        belt[:, left + WIDTH : left + WIDTH + _SHADOW] *= np.linspace(0.45, 1, _SHADOW, dtype=np.float32)[:, None]
    return belt


def plate_left(index: int) -> int:
    """Where a plate begins on the belt, in pixels."""
    return index * PITCH + GAP // 2


def defects_on(plates: Sequence[Plate]) -> Iterator[tuple[Box, str]]:
    """Every defect of a belt: its box in pixels of the belt, and its kind."""
    for index, plate in enumerate(plates):
        if plate.box:
            yield plate.box.moved(plate_left(index), 0), plate.defect


def _bevel(pixels: Pixels) -> None:
    """A lit edge at the left, a dark one at the right."""
    fall = np.linspace(1, 0, _EDGE, dtype=np.float32)[None, :, None]
    pixels[:, :_EDGE] += 45 * fall
    pixels[:, -_EDGE:] *= 1 - 0.55 * fall[:, ::-1]


@cache
def _belt() -> Pixels:
    """Dark rubber for one plate, always the same: fine grain over fine ribs."""
    grain = np.random.default_rng(0).standard_normal((HEIGHT, PITCH), np.float32)
    ribs = 3 * np.sin(np.arange(HEIGHT, dtype=np.float32) * (2 * np.pi / 9))
    return np.asarray(_BELT + (9 * cv2.GaussianBlur(grain, (0, 0), 1.0) + ribs[:, None])[..., None], np.float32)
