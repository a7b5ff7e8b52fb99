"""Frames as JPEG, for clients that want to see what was judged."""

from __future__ import annotations

import cv2

from lensmount.errors import ServerError
from lensmount_server.frames import Picture

QUALITY = 85


def encode_jpeg(picture: Picture) -> bytes:
    """Encode all of a picture."""
    pixels = picture.pixels
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ServerError("the frame could not be encoded as JPEG", field="with_jpeg", value=pixels.shape)
    return data.tobytes()
