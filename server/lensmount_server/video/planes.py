"""The planes of FFmpeg's pictures, read and cut without a conversion."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from lensmount_adapters.pictures import Pixels


@dataclass(frozen=True)
class Box:
    """A part of a picture, in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    def unturned(self, turns: int, width: int, height: int) -> Box:
        """The same part before the picture, now `width` by `height`, made so many quarter turns clockwise."""
        box = self
        for _ in range(turns):
            box = Box(box.top, width - box.left - box.width, box.height, box.width)
            width, height = height, width
        return box


@dataclass(frozen=True)
class Layout:
    """A planar YUV format of 8 bits: so many luma columns and rows share one chroma value."""

    across: int
    down: int

    def divides(self, width: int, height: int) -> bool:
        """Whether that many pixels are whole chroma values."""
        return width % self.across == 0 and height % self.down == 0


PLANAR = {
    "yuv420p": Layout(2, 2),
    "yuvj420p": Layout(2, 2),
    "yuv422p": Layout(2, 1),
    "yuvj422p": Layout(2, 1),
    "yuv444p": Layout(1, 1),
    "yuvj444p": Layout(1, 1),
}
_LUMA_FIRST = {*PLANAR, "nv12", "gray"}


def cut(frame: av.VideoFrame, box: Box, scratch: av.VideoFrame | None = None) -> av.VideoFrame | None:
    """That part as a picture of its own; None where the format is another one or chroma values would be split.

    It is written into `scratch` where that is given and fits.
    """
    if (box.width, box.height) == (frame.width, frame.height):
        return frame
    layout = PLANAR.get(frame.format.name)
    if layout is None or not (layout.divides(frame.width, frame.height) and layout.divides(box.left, box.top)):
        return None
    if not layout.divides(box.width, box.height):
        return None
    fits = scratch is not None and (scratch.width, scratch.height) == (box.width, box.height)
    reused = scratch if fits and scratch is not None and scratch.format.name == frame.format.name else None
    part = reused or av.VideoFrame(box.width, box.height, frame.format.name)
    for number, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        across, down = (layout.across, layout.down) if number else (1, 1)
        left, top, width, height = box.left // across, box.top // down, box.width // across, box.height // down
        _rows(target)[:height, :width] = _rows(source)[top : top + height, left : left + width]
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part


def luma(frame: av.VideoFrame) -> Pixels | None:
    """The first plane, uint8 (height, width), not copied; None where it is not the brightness in 8 bits."""
    if frame.format.name not in _LUMA_FIRST:
        return None
    return _rows(frame.planes[0])[: frame.height, : frame.width]


def planes_of(frame: av.VideoFrame) -> list[Pixels]:
    """The planes of a format whose planes are all as large as the picture, uint8 (height, width), not copied."""
    return [_rows(plane)[: frame.height, : frame.width] for plane in frame.planes]


def _rows(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return rows.reshape(plane.height, plane.line_size)
