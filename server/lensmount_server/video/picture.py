"""From FFmpeg's pictures to RGB, with the colours that the encoder meant, and no larger than somebody needs them.

Matrix and range come from the stream. Where it does not say, the usual rule holds
(ITU-T H.273 leaves it to the application): BT.709 from 720 lines on, BT.601 below,
limited range unless the pixel format itself says full (`yuvj420p`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing

_SAYS_NOTHING = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
_FILTERS = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}
# A thread keeps so many conversions ready: each holds tables for its sizes.
_READY = 16

Size = tuple[int, int]


class DecodedPicture:
    """A picture as its decoder left it, in its own colour space.

    For a backbone it is scaled and converted in one step, so no pixel is converted that nobody sees. That
    differs from training's way (converted first) by rounding: 1.5 levels of 255 on average at most, where
    the picture is made smaller. One that must be made larger takes training's way itself.
    """

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self.height = frame.height
        self.width = frame.width

    @property
    def kind(self) -> tuple[object, ...]:
        """What its conversion depends on: pictures of one kind are converted alike."""
        frame = self._frame
        return frame.format.name, frame.height, frame.width, frame.colorspace, frame.color_range

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 RGB (height, width, 3), C-contiguous. Raises av.FFmpegError if there is no conversion."""
        return self._rgb((self.height, self.width), Interpolation.BILINEAR)

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What a backbone gets to see: uint8 (3, height, width) of the preprocessing."""
        height, width = preprocessing.resized(self.height, self.width)
        if height > self.height or width > self.width:
            return preprocessing.prepare(self.pixels)
        rgb = self._rgb((height, width), _FILTERS[preprocessing.interpolation])
        return preprocessing.cropped(torch.from_numpy(rgb).permute(2, 0, 1))

    def _rgb(self, size: Size, interpolation: Interpolation) -> Pixels:
        frame = self._frame
        rgb = _reformatter((*self.kind, size, interpolation)).reformat(
            frame,
            *(size[1], size[0], "rgb24"),
            src_colorspace=_matrix(frame),
            src_color_range=_range(frame),
            interpolation=interpolation,
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)


class _Reformatters(threading.local):
    """FFmpeg's conversions with their tables, each thread its own."""

    def __init__(self) -> None:
        self.ready: OrderedDict[object, VideoReformatter] = OrderedDict()


_reformatters = _Reformatters()


def _reformatter(key: object) -> VideoReformatter:
    ready = _reformatters.ready
    if key not in ready:
        ready[key] = VideoReformatter()
    ready.move_to_end(key)
    if len(ready) > _READY:
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
