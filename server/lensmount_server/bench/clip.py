"""A clip as a camera makes one: H.264, a texture that moves, coded as densely as real scenes are."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

GROUP = 30
CYCLE = 60


def write_clip(path: Path, frames: int, *, width: int = 1280, height: int = 720, fps: int = 30) -> Path:
    """Write `frames` pictures (MP4), stamped for `fps` frames a second, of a camera that pans over a texture."""
    texture = _texture(height + 2 * CYCLE, width + 4 * CYCLE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "bf": "2", "g": str(GROUP)}
        for number in range(frames):
            step = abs(number % (2 * CYCLE) - CYCLE)
            view = np.ascontiguousarray(texture[step : step + height, 2 * step : 2 * step + width])
            frame = av.VideoFrame.from_ndarray(view, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _texture(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 RGB (height, width, 3) with coarse and fine structure."""
    random = np.random.default_rng(5)
    layers = []
    for grain in (4, 16, 64):
        small = random.integers(0, 256, (height // grain + 1, width // grain + 1, 3), np.uint8)
        layers.append(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32))
    return np.asarray(np.mean(layers, axis=0).clip(0, 255), np.uint8)
