"""From an encoded still to pixels, for training and serving alike."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lensmount.errors import InvalidInputError, TooLargeError

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_SIDE = 16_384
MAX_PIXELS = 64_000_000


def decode_picture(data: bytes, *, field: str = "picture") -> Pixels:
    """Decode JPEG, PNG, WebP or BMP to uint8 RGB of shape (height, width, 3).

    EXIF orientation is applied, 16-bit and CMYK pictures are converted, of an animation the
    first picture is taken. The header is checked before a pixel is decoded.
    Raises InvalidInputError for what is no picture, TooLargeError beyond `MAX_SIDE` or `MAX_PIXELS`.
    """
    fix = f"send one whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                check_sides(picture.width, picture.height, field=field)
                return _rgb(picture)
    except UnidentifiedImageError as error:
        value = f"{len(data)} bytes starting {data[:8].hex(' ') or 'nowhere'}"
        message = f"the data is not a picture: {', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read"
        raise InvalidInputError(message, field=field, value=value, fix=fix) from error
    except Image.DecompressionBombError as error:
        value, fix = str(error).partition(" exceeds")[0], f"send at most {MAX_PIXELS:,} pixels; scale it down first"
        raise TooLargeError("the picture is too large", field=field, value=value, fix=fix) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        message = f"the picture is damaged: {error}"
        raise InvalidInputError(message, field=field, value=f"{len(data)} bytes", fix=fix) from error


def check_sides(width: int, height: int, *, field: str = "picture") -> None:
    """Raise for a picture without pixels (InvalidInputError) or with too many (TooLargeError)."""
    value = f"{width}x{height}"
    if width < 1 or height < 1:
        fix = "send at least 1 pixel a side"
        raise InvalidInputError("the picture has no pixels", field=field, value=value, fix=fix)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        fix = f"send at most {MAX_SIDE:,} pixels a side and {MAX_PIXELS:,} in all; scale it down first"
        raise TooLargeError("the picture is too large", field=field, value=value, fix=fix)


def _rgb(picture: Image.Image) -> Pixels:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode == "I":
        sixteen = np.asarray(upright, dtype=np.uint32)
        grey = (sixteen >> 8).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    return np.array(upright.convert("RGB"), dtype=np.uint8, order="C")
