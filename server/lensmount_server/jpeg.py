"""Pictures as JPEG, for people who want to see what was judged."""

from __future__ import annotations

import cv2

from lensmount.errors import ServerError
from lensmount_adapters.pictures import Pixels

QUALITY = 85


def encode_jpeg(pixels: Pixels) -> bytes:
    """All of a picture, uint8 RGB (height, width, 3). Raises ServerError for one that JPEG can not hold."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ServerError("the frame could not be encoded as JPEG", field="with_jpeg", value=pixels.shape)
    return data.tobytes()
