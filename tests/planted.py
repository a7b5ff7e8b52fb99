"""Folders of real surfaces, tinted by class so that any backbone tells them apart, and faults planted in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data as photographs

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import read

TINTS = {"brick": (1.0, 0.55, 0.45), "grass": (0.5, 1.0, 0.5), "gravel": (0.5, 0.6, 1.0)}
SIDE = 96


def surface(label: str, number: int, side: int = SIDE) -> Pixels:
    """A cut-out of a photograph of a surface; others overlap it, at another place of theirs."""
    random = np.random.default_rng([number, *label.encode()])
    picture = getattr(photographs, label)()
    top, left = number * 53 % (513 - side), number * 139 % (513 - side)
    grey = picture[top : top + side, left : left + side, None]
    tint = np.array(TINTS[label]) * random.uniform(0.85, 1, 3)
    # The photographs are dark ones; 60 more levels let nobody call them so.
    return np.asarray((grey * 0.7 + 60) * tint, np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def clean(folder: Path, per_class: int = 24, labels: Sequence[str] = tuple(TINTS)) -> Path:
    """An ImageFolder without a fault."""
    for label in labels:
        for number in range(per_class):
            save(folder / label / f"{number:03}.png", surface(label, number))
    return folder


def opened(folder: Path, backbone: Backbone, context: Context) -> Dataset:
    return read(list_folder(folder), backbone.preprocessing, context.cache, context.progress)


def jpeg(pixels: Pixels, quality: int = 75) -> Pixels:
    """Encoded and decoded again."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return np.array(Image.open(out))


def resized(pixels: Pixels, ratio: float) -> Pixels:
    size = (round(pixels.shape[1] * ratio), round(pixels.shape[0] * ratio))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def blurred(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 9), np.uint8)


def noisy(pixels: Pixels, deviation: float, seed: int = 0) -> Pixels:
    drawn = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return (pixels + drawn).clip(0, 255).astype(np.uint8)


def scratched(pixels: Pixels) -> Pixels:
    """A bright line over a sixth of the picture, two pixels wide."""
    out = pixels.copy()
    height, width = pixels.shape[:2]
    out[height // 2 : height // 2 + 2, width // 3 : width // 2] = 255
    return out
