"""From FFmpeg's pictures to RGB pixels, with the colours that the encoder meant.

Matrix and range come from the stream. Where it does not say, the usual rule holds
(ITU-T H.273 leaves it to the application): BT.709 from 720 lines on, BT.601 below,
limited range unless the pixel format itself says full (`yuvj420p`).
"""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from lensmount_server.frames import Pixels
from lensmount_server.video.limits import PictureLimits

_SAYS_NOTHING = (2, 3)  # AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_RESERVED


class PictureConverter:
    """Turns pictures of any size and pixel format into uint8 RGB of shape (height, width, 3)."""

    def __init__(self, limits: PictureLimits) -> None:
        self._limits = limits
        self._reformatter = VideoReformatter()

    def convert(self, picture: av.VideoFrame) -> Pixels:
        """C-contiguous RGB. Raises TooLargeError beyond the limits, av.FFmpegError if there is no conversion."""
        self._limits.check(picture.width, picture.height)
        rgb = self._reformatter.reformat(
            picture,
            format="rgb24",
            src_colorspace=_matrix(picture),
            src_color_range=_range(picture),
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)


def _matrix(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.colorspace not in _SAYS_NOTHING:
        return None
    return Colorspace.ITU709 if picture.height >= 720 else Colorspace.ITU601


def _range(picture: av.VideoFrame) -> int | None:
    if picture.format.is_rgb or picture.color_range != ColorRange.UNSPECIFIED:
        return None
    return ColorRange.JPEG if picture.format.name.startswith("yuvj") else ColorRange.MPEG
