"""Defects that the demo draws on a surface: a scratch, a stain, a hole, or none.

Each is drawn through a soft mask and keeps the surface's own texture where a real
one would: a scratch is a groove with a lit flank, a stain darkens what lies below
and has an uneven rim, a hole has a shadow on the side of the light and a bright
lip opposite. The light comes from the upper left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from lensmount.errors import InvalidInputError
from lensmount_training.demo.boxes import Box
from lensmount_training.demo.surfaces import Pixels

OK = "ok"
DEFECTS = (OK, "scratch", "stain", "hole")
PATCH = 200
"""Side of the square that a defect is drawn in, in pixels of a plate."""

Mask = NDArray[np.float32]
"""Shape (PATCH, PATCH): 0 where the surface is untouched, 1 where the defect is full."""

_VISIBLE = 0.25
_FINE = 4


@dataclass(frozen=True)
class Stroke:
    """How a defect is drawn: `strength` 0 (hardly there) to 1 (plain to see), and the dice."""

    strength: float
    rng: np.random.Generator

    def between(self, weak: float, plain: float) -> float:
        """A value for this strength, moved at random by up to a fifth of the range."""
        return weak + (plain - weak) * float(np.clip(self.strength + self.rng.uniform(-0.2, 0.2), 0, 1))


def draw(kind: str, pixels: Pixels, centre: tuple[float, float], stroke: Stroke) -> Box | None:
    """Draws a defect into `pixels` around `centre` (x, y); returns its box, None for `ok`.

    `centre` is at least PATCH / 2 from every edge; `InvalidInputError` otherwise, and
    for a kind that is not in DEFECTS.
    """
    if kind not in DEFECTS:
        raise InvalidInputError("no such defect", field="kind", value=kind, fix=f"choose one of {', '.join(DEFECTS)}")
    left, top = (round(value - PATCH / 2) for value in centre)
    patch = pixels[max(0, top) : top + PATCH, max(0, left) : left + PATCH]
    if patch.shape[:2] != (PATCH, PATCH):
        raise InvalidInputError(
            "too close to the edge for a defect", field="centre", value=centre, fix=f"stay {PATCH // 2} pixels inside"
        )
    if kind == OK:
        return None
    mask = _PAINTERS[kind](patch, stroke)
    return _bounds(mask).moved(left, top)


def _scratch(patch: Pixels, stroke: Stroke) -> Mask:
    """A groove along a bent line, thinner at both ends, its lower right flank lit."""
    length, bend = stroke.between(115, 170), stroke.rng.uniform(-12, 12)
    angle = stroke.rng.uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 24)
    line = np.stack([along * length, bend * (1 - 4 * along**2)], axis=-1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    groove = _polyline(line @ turn, stroke.between(4.0, 5.7))
    flank = _shifted(groove, 1.8)
    depth, light = stroke.between(0.6, 0.8), stroke.between(65, 105)
    patch *= (1 - depth * groove)[..., None]
    patch += (light * np.clip(flank - 0.5 * groove, 0, 1))[..., None]
    return np.maximum(groove, flank)


def _stain(patch: Pixels, stroke: Stroke) -> Mask:
    """An uneven blot that darkens and tints what is below it, darker at its rim."""
    mask = _blob(stroke.between(38, 57), unevenness=0.45, rng=stroke.rng)
    rim = np.clip(_soft(mask, 1.2) - _soft(mask, 4), 0, 1)
    darkness = stroke.between(0.38, 0.52)
    tint = np.array((0.85, 1.0, 1.2), np.float32) if stroke.rng.integers(2) else np.ones(3, np.float32)
    soaked = _soft(mask, 2.5)
    patch *= 1 - (darkness * (0.9 * soaked + 0.8 * rim))[..., None] * tint
    return soaked


def _hole(patch: Pixels, stroke: Stroke) -> Mask:
    """A dark pit: deepest at the side of the light, with a lit lip on the other."""
    radius = stroke.between(15, 24)
    pit = _soft(_blob(radius, unevenness=0.18, rng=stroke.rng), 0.8)
    depth = stroke.between(0.7, 0.88)
    wall = _soft(_shifted(pit, radius * 0.5), radius * 0.3)
    lip = np.clip(_shifted(pit, 1.8) - pit, 0, 1)
    patch *= (1 - pit * depth * (1 - 0.35 * wall))[..., None]
    patch += (stroke.between(22, 46) * lip)[..., None]
    return pit


_PAINTERS = {"scratch": _scratch, "stain": _stain, "hole": _hole}


def _polyline(points: NDArray[np.float64], width: float) -> Mask:
    """A soft line through points (x, y) around the middle, as thin as half its width at the ends."""
    fine = np.zeros((PATCH * _FINE, PATCH * _FINE), np.uint8)
    where = np.rint((points + PATCH / 2) * _FINE).astype(np.int32)
    for step, (start, end) in enumerate(pairwise(where)):
        share = 1 - abs(2 * step / (len(where) - 2) - 1)
        thickness = max(1, round(width * _FINE * (0.5 + 0.5 * min(1.0, 3 * share))))
        cv2.line(fine, start.tolist(), end.tolist(), 255, thickness, cv2.LINE_AA)
    return _soft(_shrunk(fine), 0.6)


def _blob(radius: float, unevenness: float, rng: np.random.Generator) -> Mask:
    """A filled round shape whose radius wavers by `unevenness`, stretched and turned at random."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waver = sum(rng.uniform(-1, 1) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    reach = radius * (1 + unevenness * 0.6 * waver)
    stretch, turn = rng.uniform(0.7, 1.0), rng.uniform(0, np.pi)
    x, y = reach * np.cos(angle), reach * stretch * np.sin(angle)
    outline = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)
    fine = np.zeros((PATCH * _FINE, PATCH * _FINE), np.uint8)
    cv2.fillPoly(fine, [np.rint((outline + PATCH / 2) * _FINE).astype(np.int32)], 255, cv2.LINE_AA)
    return _shrunk(fine)


def _shrunk(fine: NDArray[np.uint8]) -> Mask:
    return np.asarray(cv2.resize(fine, (PATCH, PATCH), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _soft(mask: Mask, pixels: float) -> Mask:
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), pixels), np.float32)


def _shifted(mask: Mask, pixels: float) -> Mask:
    """Away from the light: down and to the right."""
    matrix = np.array([[1, 0, pixels * 0.7], [0, 1, pixels * 0.7]], np.float32)
    return np.asarray(cv2.warpAffine(mask, matrix, (PATCH, PATCH)), np.float32)


def _bounds(mask: Mask) -> Box:
    rows, columns = np.nonzero(mask > _VISIBLE)
    return Box(float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
