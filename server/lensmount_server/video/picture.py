"""From FFmpeg's pictures to RGB, with the colours that the encoder meant, when somebody asks for it.

Matrix and range come from the stream. Where it does not say, the usual rule holds
(ITU-T H.273 leaves it to the application): BT.709 from 720 lines on, BT.601 below,
limited range unless the pixel format itself says full (`yuvj420p`).

A backbone's picture is scaled before it is converted, in one pass of FFmpeg from the
decoder's planes to small RGB planes. Scaling and the matrix are linear, so training's
order (convert, then scale) gives the same, but for rounding, for colours that RGB clips,
and for FFmpeg's bicubic curve (a = -0.6, Pillow -0.5): on photographs the mean difference
is below half a level of 255 and one value in a thousand is more than 4 levels off (docs/performance.md).
Where chroma would have to be enlarged, which interpolates what training repeats, where a side
is odd (half a chroma value too much), and for every other pixel format the picture is converted
first, as in training.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import NOTHING
from lensmount_server.jpeg import encode_jpeg
from lensmount_server.video.planes import PLANAR, Box, cut, luma, planes_of

_SAYS_NOTHING = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED
_CURVES = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}
# A thread keeps so many conversions ready: each holds tables for its sizes.
READY = 16


class DecodedPicture:
    """A picture as its decoder left it, in its own colour space: one that nobody looks at is never converted.

    It stands upright as the stream says (a phone's display matrix), and shows the part `window` of `frame`, then
    turned clockwise by `turns` quarters.
    """

    def __init__(self, frame: av.VideoFrame, turns: int | None = None, window: Box | None = None) -> None:
        self._frame = frame
        self._turns = upright(frame) if turns is None else turns % 4
        self._window = window or Box(0, 0, frame.width, frame.height)
        sides = (self._window.width, self._window.height)
        self.width, self.height = sides if self._turns % 2 == 0 else sides[::-1]

    @property
    def kind(self) -> tuple[object, ...]:
        """What its conversion depends on: pictures of one kind are converted alike."""
        return _kind(self._frame)

    def turned(self, turns: int) -> DecodedPicture:
        """The same, turned clockwise by so many quarters."""
        return DecodedPicture(self._frame, self._turns + turns, self._window)

    def part(self, box: Box) -> DecodedPicture:
        """That part of it alone."""
        inner, outer = box.unturned(self._turns, self.width, self.height), self._window
        window = Box(outer.left + inner.left, outer.top + inner.top, inner.width, inner.height)
        return DecodedPicture(self._frame, self._turns, window)

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 RGB (height, width, 3), C-contiguous. Raises av.FFmpegError if there is no conversion."""
        frame = self._cut
        rgb = _converted(self._frame if frame is None else frame)
        return np.ascontiguousarray(self._oriented(rgb if frame is not None else self._windowed(rgb)))

    def grey(self) -> Pixels:
        """uint8 (height, width): its brightness, on the decoder's own scale where that comes without a conversion."""
        plane = luma(self._frame)
        if plane is None:
            return np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY), np.uint8)
        return self._oriented(self._windowed(plane))

    @property
    def prepared(self) -> Mapping[Preprocessing, Tensor]:
        """Nothing."""
        return NOTHING

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What a backbone gets to see, uint8 (3, height, width) of the preprocessing. Raises as that does."""
        height, width = preprocessing.resized(self.height, self.width)
        if self._turns % 2:
            height, width = width, height
        if (frame := self._cut) is None or not _may_scale(frame, height, width):
            return preprocessing.prepare(self.pixels)
        small = _scaled(frame, height, width, preprocessing.interpolation)
        return preprocessing.crop(torch.rot90(small, -self._turns, (1, 2)) if self._turns else small)

    def jpeg(self) -> bytes:
        """As JPEG."""
        return encode_jpeg(self.pixels)

    @cached_property
    def _cut(self) -> av.VideoFrame | None:
        part = cut(self._frame, self._window)
        if part not in (None, self._frame) and (matrix := _matrix(self._frame)) is not None:
            part.colorspace = matrix  # a part is lower: it would be taken for another kind of stream
        return part

    def _windowed(self, whole: Pixels) -> Pixels:
        box = self._window
        return whole[box.top : box.top + box.height, box.left : box.left + box.width]

    def _oriented(self, pixels: Pixels) -> Pixels:
        return np.rot90(pixels, -self._turns) if self._turns else pixels


def upright(frame: av.VideoFrame) -> int:
    """The quarter turns clockwise that the stream's display matrix asks for; a slanted one is left alone."""
    degrees = frame.rotation  # counterclockwise, -180 to 180
    return -degrees // 90 % 4 if degrees % 90 == 0 else 0


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


def _converted(frame: av.VideoFrame) -> Pixels:
    """Full-size RGB. FFmpeg's fast conversion rounds down: 1 to 1.5 levels of 255 darker than the equations."""
    rgb = _reformatter(_kind(frame)).reformat(
        frame, format="rgb24", src_colorspace=_matrix(frame), src_color_range=_range(frame), threads=1
    )
    return np.asarray(rgb.to_ndarray(), dtype=np.uint8)


def _may_scale(frame: av.VideoFrame, height: int, width: int) -> bool:
    layout = PLANAR.get(frame.format.name)
    if layout is None or not layout.divides(frame.width, frame.height):
        return False
    return frame.height >= height * layout.down and frame.width >= width * layout.across


def _scaled(frame: av.VideoFrame, height: int, width: int, interpolation: str) -> Tensor:
    small = _reformatter((*_kind(frame), height, width, interpolation)).reformat(
        frame,
        width=width,
        height=height,
        format="gbrp",
        src_colorspace=_matrix(frame),
        src_color_range=_range(frame),
        interpolation=_CURVES[interpolation],
        threads=1,
    )
    green, blue, red = planes_of(small)
    return torch.from_numpy(np.stack((red, green, blue)))


def _kind(frame: av.VideoFrame) -> tuple[object, ...]:
    return frame.format.name, frame.height, frame.width, frame.colorspace, frame.color_range


def _matrix(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.colorspace not in _SAYS_NOTHING:
        return None
    return Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601


def _range(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.color_range != ColorRange.UNSPECIFIED:
        return None
    return ColorRange.JPEG if picture.format.name.startswith("yuvj") else ColorRange.MPEG
