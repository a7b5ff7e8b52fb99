"""From a decoded frame to upright RGB, with the colours that the encoder meant, as the server sees them.

Matrix and range come from the stream. Where it does not say: BT.709 from 720 lines on and BT.601 below, limited range
unless the pixel format itself says full (`yuvj420p`).
"""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels

_SAYS_NOTHING = (2, 3)  # unspecified and reserved, ITU-T H.273


def rgb(frame: av.VideoFrame) -> Pixels:
    """uint8 (height, width, 3), turned as the display matrix asks for where it asks for quarter turns.

    Raises InvalidInputError for a pixel format that can not be converted.
    """
    try:
        converted = frame.reformat(
            format="rgb24", src_colorspace=_matrix(frame), src_color_range=_range(frame), threads=1
        )
    except av.FFmpegError as error:
        message, fix = "the video's pixel format can not be converted", "encode it as yuv420p"
        raise InvalidInputError(message, field="data", value=frame.format.name, fix=fix) from error
    pixels = np.asarray(converted.to_ndarray(), dtype=np.uint8)
    counterclockwise = frame.rotation
    turns = counterclockwise // 90 if counterclockwise % 90 == 0 else 0
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _matrix(frame: av.VideoFrame) -> int | None:
    """FFmpeg's number of the matrix where the stream does not say."""
    if frame.format.is_rgb or frame.colorspace not in _SAYS_NOTHING:
        return None
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def _range(frame: av.VideoFrame) -> int | None:
    """FFmpeg's number of the range where the stream does not say."""
    if frame.format.is_rgb or frame.color_range != ColorRange.UNSPECIFIED:
        return None
    return ColorRange.JPEG if frame.format.name.startswith("yuvj") else ColorRange.MPEG
