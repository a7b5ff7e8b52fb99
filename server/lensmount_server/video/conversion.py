"""From FFmpeg's planes to RGB, with the colours that the encoder meant.

Matrix and range come from the stream. Where it does not say, the usual rule holds
(ITU-T H.273 leaves it to the application): BT.709 from 720 lines on, BT.601 below,
limited range unless the pixel format itself says full (`yuvj420p`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from math import gcd
from typing import Literal

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_server.video.planes import PLANAR, Box, cut, planes_of

_SAYS_NOTHING = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
_CURVES = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}
# Pixels of the result on each side of what is kept: half the length of the curves, and one more.
_MARGIN = 3
# A thread keeps so many conversions ready: each holds tables for its sizes.
READY = 16


@dataclass(frozen=True)
class Colours:
    """FFmpeg's numbers of a picture's matrix and range where its stream does not say; None: it does, or it is RGB."""

    matrix: int | None
    range: int | None

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colours:
        """Those of a whole picture: a part of it has fewer lines, and means the same."""
        return cls(_matrix(frame), _range(frame))


@dataclass(frozen=True)
class Target:
    """The whole picture's new size, and what of it is kept, all in pixels of the result."""

    height: int
    width: int
    keep: Box
    interpolation: Literal["bicubic", "bilinear"]


def converted(frame: av.VideoFrame, colours: Colours) -> Pixels:
    """RGB of the same size. FFmpeg's fast conversion rounds down: 1 to 1.5 levels of 255 darker than the equations.

    Raises av.FFmpegError for a format without a conversion.
    """
    rgb = _reformatter((*kind_of(frame), colours)).reformat(
        frame, format="rgb24", src_colorspace=colours.matrix, src_color_range=colours.range, threads=1
    )
    return np.asarray(rgb.to_ndarray(), dtype=np.uint8)


def can_scale(frame: av.VideoFrame, height: int, width: int) -> bool:
    """Whether `scaled` takes it: whole chroma values, which would not be enlarged."""
    layout = PLANAR.get(frame.format.name)
    if layout is None or not layout.divides(frame.width, frame.height):
        return False
    return frame.height >= height * layout.down and frame.width >= width * layout.across


def scaled(frame: av.VideoFrame, colours: Colours, target: Target) -> Tensor:
    """What the target keeps, uint8 (3, height, width), from the decoder's planes in one pass of FFmpeg.

    Where whole pixels of the source and of the result coincide, source pixels that nothing of it depends on
    are left out.
    """
    keep, layout = target.keep, PLANAR[frame.format.name]
    left, right = _span(frame.width, target.width, keep.left, keep.width, layout.across)
    top, bottom = _span(frame.height, target.height, keep.top, keep.height, layout.down)
    across, down = frame.width / target.width, frame.height / target.height
    source = Box(round(left * across), round(top * down), round((right - left) * across), round((bottom - top) * down))
    part = cut(frame, source, _own.scratch)
    if part is not None and part is not frame:
        _own.scratch = part  # a new buffer for each picture would cost more than the copy
    if part is None:
        part, left, top, right, bottom = frame, 0, 0, target.width, target.height
    small = _reformatter((*kind_of(part), colours, bottom - top, right - left, target.interpolation)).reformat(
        part,
        width=right - left,
        height=bottom - top,
        format="gbrp",
        src_colorspace=colours.matrix,
        src_color_range=colours.range,
        interpolation=_CURVES[target.interpolation],
        threads=1,
    )
    rows = slice(keep.top - top, keep.top - top + keep.height)
    columns = slice(keep.left - left, keep.left - left + keep.width)
    green, blue, red = (plane[rows, columns] for plane in planes_of(small))
    return torch.from_numpy(np.stack((red, green, blue)))


def kind_of(frame: av.VideoFrame) -> tuple[object, ...]:
    """What a conversion depends on."""
    return frame.format.name, frame.height, frame.width, frame.colorspace, frame.color_range


def _span(source: int, result: int, start: int, size: int, shared: int) -> tuple[int, int]:
    """The first pixel of the result that must be made to keep `size` from `start` on, and the one after the last."""
    common = gcd(source, result)
    step = result // common * (1 if source // common % shared == 0 else shared)
    if result % step:
        return 0, result
    first = max(start - _MARGIN, 0) // step * step
    return first, min(-(-(start + size + _MARGIN) // step) * step, result)


class _Own(threading.local):
    """What each thread has for itself: FFmpeg's conversions with their tables, and room for a part of a picture."""

    def __init__(self) -> None:
        self.ready: OrderedDict[object, VideoReformatter] = OrderedDict()
        self.scratch: av.VideoFrame | None = None


_own = _Own()


def _reformatter(key: object) -> VideoReformatter:
    ready = _own.ready
    if key not in ready:
        ready[key] = VideoReformatter()
    ready.move_to_end(key)
    if len(ready) > READY:
        ready.popitem(last=False)
    return ready[key]


def _matrix(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.colorspace not in _SAYS_NOTHING:
        return None
    return Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601


def _range(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.color_range != ColorRange.UNSPECIFIED:
        return None
    return ColorRange.JPEG if picture.format.name.startswith("yuvj") else ColorRange.MPEG
