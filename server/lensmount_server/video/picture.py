"""A decoded picture, converted when somebody asks for it.

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

from collections.abc import Collection, Mapping
from functools import cached_property

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import prepare_in_thread
from lensmount_server.jpeg import encode_jpeg
from lensmount_server.video.conversion import Colours, Target, can_scale, converted, kind_of, scaled
from lensmount_server.video.planes import Box, cut, luma


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
        return kind_of(self._frame)

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
        colours, frame = Colours.of(self._frame), self._cut
        rgb = self._windowed(converted(self._frame, colours)) if frame is None else converted(frame, colours)
        return np.ascontiguousarray(self._oriented(rgb))

    def grey(self) -> Pixels:
        """uint8 (height, width): its brightness, on the decoder's own scale where that comes without a conversion."""
        plane = luma(self._frame)
        if plane is None:
            return np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY), np.uint8)
        return self._oriented(self._windowed(plane))

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        """What is wanted, made in a thread."""
        return await prepare_in_thread(self, wanted)

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What a backbone gets to see, uint8 (3, height, width) of the preprocessing. Raises as that does."""
        height, width = preprocessing.resized(self.height, self.width)
        top, left = preprocessing.corner(height, width)
        keep = Box(left, top, preprocessing.width, preprocessing.height).unturned(self._turns, width, height)
        if self._turns % 2:
            height, width = width, height
        if (frame := self._cut) is None or not can_scale(frame, height, width):
            return preprocessing.prepare(self.pixels)
        small = scaled(frame, Colours.of(self._frame), Target(height, width, keep, preprocessing.interpolation))
        return torch.rot90(small, -self._turns, (1, 2)).contiguous() if self._turns else small

    def jpeg(self) -> bytes:
        """As JPEG."""
        return encode_jpeg(self.pixels)

    @cached_property
    def _cut(self) -> av.VideoFrame | None:
        return cut(self._frame, self._window)

    def _windowed(self, whole: Pixels) -> Pixels:
        box = self._window
        return whole[box.top : box.top + box.height, box.left : box.left + box.width]

    def _oriented(self, pixels: Pixels) -> Pixels:
        return np.rot90(pixels, -self._turns) if self._turns else pixels


def upright(frame: av.VideoFrame) -> int:
    """The quarter turns clockwise that the stream's display matrix asks for; a slanted one is left alone."""
    degrees = frame.rotation  # counterclockwise, -180 to 180
    return -degrees // 90 % 4 if degrees % 90 == 0 else 0
