"""What a caller calls a picture, in the form the wire takes: a path, encoded bytes or pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lensmount.errors import InvalidInputError
from lensmount.v1 import inference_pb2

Pixels = NDArray[np.uint8]
Picture = str | os.PathLike[str] | bytes | Pixels

_MAX_SIDE = 16_384


def encoded(data: bytes, pts_ns: int = 0) -> inference_pb2.EncodedPicture:
    """A JPEG, PNG, WebP or BMP as it is; the server decodes it."""
    if not data:
        raise InvalidInputError("no bytes", field="image", value="0 bytes", fix="send the bytes of a JPEG or PNG file")
    return inference_pb2.EncodedPicture(data=data, pts_ns=pts_ns)


def raw(pixels: Pixels, pts_ns: int = 0) -> inference_pb2.RawFrame:
    """RGB pixels, uint8 of shape (height, width, 3), as they are."""
    fix = "give uint8 RGB of shape (height, width, 3), for example np.asarray(picture.convert('RGB'))"
    if pixels.dtype != np.uint8:
        raise InvalidInputError("not uint8", field="image", value=pixels.dtype, fix=fix)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InvalidInputError("not height x width x 3", field="image", value=pixels.shape, fix=fix)
    height, width, _ = pixels.shape
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise InvalidInputError(f"1 to {_MAX_SIDE} pixels a side", field="image", value=pixels.shape, fix="resize it")
    rgb = inference_pb2.PIXEL_FORMAT_RGB24
    return inference_pb2.RawFrame(width=width, height=height, pixel_format=rgb, data=pixels.tobytes(), pts_ns=pts_ns)


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file; InvalidInputError when it can not be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        message = f"not readable: {error.strerror}"
        raise InvalidInputError(message, field="image", value=path, fix="give the path of a picture file") from error


def infer_request(image: Picture) -> inference_pb2.InferRequest:
    """A request with its picture; the tasks are for the caller to add."""
    if isinstance(image, np.ndarray):
        return inference_pb2.InferRequest(raw=raw(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return inference_pb2.InferRequest(encoded=encoded(bytes(image)))
    if isinstance(image, str | os.PathLike):
        return inference_pb2.InferRequest(encoded=encoded(read(image)))
    fix = "give a path, the bytes of a JPEG or PNG, or a uint8 array of shape (height, width, 3)"
    raise InvalidInputError("not a picture", field="image", value=type(image).__name__, fix=fix)
