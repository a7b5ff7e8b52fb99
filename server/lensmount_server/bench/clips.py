"""Video to decode: made here by x264, so that everybody measures the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from lensmount_adapters.pictures import Pixels

FPS = 30


@dataclass(frozen=True)
class Recipe:
    """What is encoded: `options` are x264's by FFmpeg's names, all others at their defaults.

    `bits` a second, 0: as many as x264's usual quality takes. The whole scene moves by `drift` pixels a picture.
    """

    name: str
    width: int
    height: int
    bits: int
    options: tuple[tuple[str, str], ...] = ()
    drift: int = 2


# What a camera of that size sends.
HD, FULL_HD = (1280, 720, 2_000_000), (1920, 1080, 4_000_000)
NO_B_FRAMES = (("tune", "zerolatency"), ("g", str(FPS)), ("sc_threshold", "0"))


def write(folder: Path, recipe: Recipe, frames: int) -> Path:
    """A file of so many pictures: structure at every scale that drifts, things that pass, sensor noise."""
    path = folder / f"{recipe.name}.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        stream.options = dict(recipe.options)
        if recipe.bits:
            stream.bit_rate = recipe.bits
        else:
            stream.options |= {"crf": "23"}
        for number, picture in enumerate(_pictures(recipe, frames)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _pictures(recipe: Recipe, frames: int) -> Iterator[Pixels]:
    random, width, height, drift = np.random.default_rng(0), recipe.width, recipe.height, recipe.drift
    wide, thing = _texture(random, width + drift * frames, height), _texture(random, width // 4, height // 3)
    noise = random.normal(0, 3, (height, width + 64, 1)).astype(np.float32)
    for number in range(frames):
        picture = wide[:, drift * number : drift * number + width].astype(np.float32)
        left = round((0.5 + 0.5 * np.sin(number / 20)) * (width - thing.shape[1]))
        top = round((0.5 + 0.5 * np.cos(number / 31)) * (height - thing.shape[0]))
        picture[top : top + thing.shape[0], left : left + thing.shape[1]] = thing
        shift = int(random.integers(0, 64))
        picture += noise[:, shift : shift + width]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _texture(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Noise of every scale, the coarse the stronger, as in nature."""
    total = np.full((height, width, 3), 120, np.float32)
    for scale in (4, 8, 16, 32, 64, 128):
        size = max(width // scale, 2), max(height // scale, 2)
        coarse = random.normal(0, 5 + scale / 4, (size[1], size[0], 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)
