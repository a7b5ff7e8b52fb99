"""From FFmpeg's pictures to RGB, with the colours that the encoder meant, when somebody asks for it.

Matrix and range come from the stream. Where it does not say, the usual rule holds
(ITU-T H.273 leaves it to the application): BT.709 from 720 lines on, BT.601 below,
limited range unless the pixel format itself says full (`yuvj420p`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import NOTHING
from lensmount_server.jpeg import encode_jpeg

_SAYS_NOTHING = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
# A thread keeps so many conversions ready: each holds tables for its sizes.
READY = 16


class DecodedPicture:
    """A picture as its decoder left it, in its own colour space: one that nobody looks at is never converted."""

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
        rgb = _reformatter(self.kind).reformat(
            self._frame,
            format="rgb24",
            src_colorspace=_matrix(self._frame),
            src_color_range=_range(self._frame),
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)

    @property
    def prepared(self) -> Mapping[Preprocessing, Tensor]:
        """Nothing."""
        return NOTHING

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What a backbone gets to see, by the same steps as in training."""
        return preprocessing.prepare(self.pixels)

    def jpeg(self) -> bytes:
        """As JPEG."""
        return encode_jpeg(self.pixels)


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
