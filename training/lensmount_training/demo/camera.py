"""The demo's camera: where it looks, how the light falls, what its sensor adds.

Pictures to train on and the clip go through the same camera, so that what a model
learns from one holds for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lensmount_training.demo.boxes import Box
from lensmount_training.demo.surfaces import Pixels


@dataclass(frozen=True)
class Pose:
    """The middle of the view (x, y) in pixels of the belt, the turn in degrees, the zoom (2: all is twice as large)."""

    x: float
    y: float
    turn: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Light:
    """How a picture is lit.

    `gain` brightens all of it; `slope` is how much more light (a share of it) the right
    and the lower edge get than the left and the upper one; `noise` is the sensor's, in
    levels of 255.
    """

    gain: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)
    noise: float = 2.0


def look(belt: Pixels, pose: Pose, height: int, width: int) -> Pixels:
    """What the camera sees: shape (height, width, 3)."""
    matrix = _projection(pose, height, width)
    return np.asarray(cv2.warpAffine(belt, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.float32)


def locate(box: Box, pose: Pose, height: int, width: int) -> Box:
    """Where a box on the belt is in the picture: the upright rectangle around its four corners."""
    corners = [(x, y, 1.0) for x in (box.left, box.right) for y in (box.top, box.bottom)]
    seen = np.array(corners) @ _projection(pose, height, width).T
    (left, top), (right, bottom) = seen.min(axis=0).tolist(), seen.max(axis=0).tolist()
    return Box(left, top, right, bottom)


def expose(seen: Pixels, light: Light, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What its sensor makes of it: lit, with darker corners, noisy, uint8."""
    height, width = seen.shape[:2]
    x, y = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    field = light.gain * (1 + light.slope[0] * x[None, :] + light.slope[1] * y[:, None]) * _corners(height, width)
    noise = light.noise * rng.standard_normal((height, width, 1), np.float32)
    return np.asarray(np.clip(seen * field[..., None] + noise + 0.5, 0, 255), np.uint8)


def _projection(pose: Pose, height: int, width: int) -> NDArray[np.float64]:
    matrix = cv2.getRotationMatrix2D((0.0, 0.0), pose.turn, pose.zoom)
    matrix[:, 2] = np.array((width / 2, height / 2)) - matrix[:, :2] @ np.array((pose.x, pose.y))
    return np.asarray(matrix, np.float64)


@cache
def _corners(height: int, width: int) -> NDArray[np.float32]:
    """Falls to about 0.8 in the corners of the picture."""
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    return np.asarray(1 - 0.1 * (x[None, :] ** 2 + y[:, None] ** 2), np.float32)
