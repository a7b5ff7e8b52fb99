"""Uncompressed pixels from a client, checked and turned into a frame."""

from __future__ import annotations

import time

import numpy as np

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame, Still
from lensmount_server.video.limits import PictureLimits

PIXEL_FORMATS = ("rgb24", "bgr24")


def raw_frame(
    width: int,
    height: int,
    pixel_format: str,
    data: bytes,
    *,
    index: int = 0,
    pts_ns: int = 0,
    limits: PictureLimits | None = None,
) -> Frame:
    """The frame in `data`: height rows of width pixels of 3 bytes, from the top, without padding.

    `pixel_format` is "rgb24" or "bgr24". The capture time is now. Raises TooLargeError
    beyond the limits and InvalidInputError for anything else that is wrong.
    """
    (limits or PictureLimits()).check(width, height)
    if pixel_format not in PIXEL_FORMATS:
        fix = f"use one of {', '.join(PIXEL_FORMATS)}"
        raise InvalidInputError("unknown pixel format", field="pixel_format", value=pixel_format, fix=fix)
    if len(data) != width * height * 3:
        fix = f"send {width * height * 3} bytes for {width}x{height}"
        raise InvalidInputError("wrong number of bytes", field="data", value=len(data), fix=fix)
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    pixels = pixels[:, :, ::-1] if pixel_format == "bgr24" else pixels
    return Frame(Still(pixels.copy(order="C")), index, pts_ns, time.time_ns())
