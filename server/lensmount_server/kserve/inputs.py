"""The pictures of a request, in one of three forms: raw pixels, encoded files, or what a backbone sees, normalised.

All become what the engine takes, uint8 (3, height, width). So `pixel_values` are taken back to uint8, and refused where
they are not what normalising uint8 gives: the engine never computes on something else than what was sent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters.pictures import MAX_PIXELS, Pixels, decode_picture
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Picture, Still
from lensmount_server.kserve.models import DATATYPES, ENCODED, INPUTS, MAX_PICTURES, PICTURE, PIXEL_VALUES
from lensmount_server.kserve.shared_memory import Place, place
from lensmount_server.services.errors import MAX_MESSAGE_BYTES
from lensmount_server.unscaled import needs_scaling
from lensmount_server.video.limits import PictureLimits

# What is cut out of so many bytes is done sooner than a thread is found for it.
QUICK_BYTES = 1 << 20
# Pixels of all files of a request together, whatever their bytes.
MAX_DECODED_PIXELS = 4 * MAX_PIXELS
# How far a normalised value may be from that of a whole number, in parts of the scale from black to white.
TOLERANCE = 1e-3

Read = Callable[[Place, str], bytes]


class Pictures(Protocol):
    """The pictures of one request."""

    def quick(self, preprocessing: Preprocessing) -> Sequence[Picture]:
        """The pictures where `rows` takes no time to speak of: the engine's thread does that; else none."""
        ...

    def rows(self, preprocessing: Preprocessing) -> list[Tensor]:
        """What the engine takes, uint8 (3, height, width) each. Raises InvalidInputError or TooLargeError."""
        ...


@dataclass(frozen=True, eq=False)
class Raw:
    """uint8 RGB (pictures, height, width, 3)."""

    pixels: Pixels

    def quick(self, preprocessing: Preprocessing) -> Sequence[Picture]:
        """Where nothing is to be scaled, and little copied."""
        _, height, width, _ = self.pixels.shape
        if self.pixels.nbytes > QUICK_BYTES or needs_scaling(height, width, preprocessing):
            return ()
        return [Still(each) for each in self.pixels]

    def rows(self, preprocessing: Preprocessing) -> list[Tensor]:
        """As training prepares them."""
        return [Still(each).prepare(preprocessing) for each in self.pixels]


@dataclass(frozen=True, eq=False)
class Encoded:
    """JPEG, PNG, WebP or BMP files; one of them is decoded at a time."""

    files: list[bytes]

    def quick(self, preprocessing: Preprocessing) -> Sequence[Picture]:
        """None."""
        return ()

    def rows(self, preprocessing: Preprocessing) -> list[Tensor]:
        """Decoded, then as training prepares them. Raises TooLargeError for too many pixels in all."""
        rows, pixels = [], 0
        for file in self.files:
            picture = decode_picture(file, field=f"inputs.{ENCODED}")
            rows.append(preprocessing.prepare(picture))
            pixels += picture.shape[0] * picture.shape[1]
            if pixels > MAX_DECODED_PIXELS:
                fix = f"send at most {MAX_DECODED_PIXELS:,} pixels in a request; scale the pictures down first"
                raise TooLargeError("too many pixels in all", field=f"inputs.{ENCODED}", value=pixels, fix=fix)
        return rows


@dataclass(frozen=True, eq=False)
class Normalised:
    """float32 (pictures, 3, height, width), as `Preprocessing.normalize` gives them."""

    values: NDArray[np.float32]

    def quick(self, preprocessing: Preprocessing) -> Sequence[Picture]:
        """None."""
        return ()

    def rows(self, preprocessing: Preprocessing) -> list[Tensor]:
        """Taken back to uint8. Raises InvalidInputError for another size, and for what no picture gives."""
        seen = preprocessing
        if self.values.shape[2:] != (seen.height, seen.width):
            fix = f"send what the adapter's preprocessing gives: (pictures, 3, {seen.height}, {seen.width})"
            value = list(self.values.shape)
            raise InvalidInputError("not the size that this model sees", field=_field("shape"), value=value, fix=fix)
        return [_denormalised(torch.tensor(each), preprocessing) for each in self.values]


def pictures(request: Any, read: Read) -> Pictures:
    """The pictures of a ModelInferRequest; `read` gives the bytes of a place in shared memory.

    Raises InvalidInputError, TooLargeError, and what `read` raises.
    """
    if len(request.inputs) != 1:
        fix = f"give exactly one of {', '.join(INPUTS)}"
        names = ", ".join(each.name for each in request.inputs[:4])
        raise InvalidInputError("one input expected", field="inputs", value=names or "none", fix=fix)
    tensor = request.inputs[0]
    name, shape = tensor.name, tuple(tensor.shape)
    _check_kind(name, tensor.datatype)
    size = _size(name, shape)
    at = place(tensor.parameters, f"inputs.{name}")
    if at is None and not request.raw_input_contents:
        return _typed(name, shape, tensor.contents)
    data = _raw(request, at, read, name)
    if name == ENCODED:
        return Encoded(list(_strings(data, shape[0])))
    if len(data) != size:
        fix = f"send {size:,} bytes for the shape {list(shape)}"
        raise InvalidInputError("wrong number of bytes", field=f"inputs.{name}", value=len(data), fix=fix)
    if name == PICTURE:
        return Raw(np.frombuffer(data, np.uint8).reshape(shape))
    return Normalised(np.frombuffer(data, "<f4").reshape(shape))


def is_typed(request: Any) -> bool:
    """Whether the numbers stand one by one in the request, which takes long to read."""
    return not request.raw_input_contents and any(each.HasField("contents") for each in request.inputs)


def _check_kind(name: str, datatype: str) -> None:
    if name not in INPUTS:
        fix = f"give one of {', '.join(INPUTS)}"
        raise InvalidInputError("no such input", field="inputs", value=name, fix=fix)
    if datatype != DATATYPES[name]:
        fix = f"send it as {DATATYPES[name]}"
        raise InvalidInputError(
            "another type of data expected", field=_field("datatype", name), value=datatype, fix=fix
        )


def _size(name: str, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor of this shape has; 0 where that is not known before. Raises for what can not be."""
    good = {
        PICTURE: len(shape) == 4 and shape[3:] == (3,),
        ENCODED: len(shape) in {1, 2} and shape[1:] in {(), (1,)},
        PIXEL_VALUES: len(shape) == 4 and shape[1:2] == (3,),
    }[name]
    expected = {
        PICTURE: "(pictures, height, width, 3)",
        ENCODED: "(pictures, 1)",
        PIXEL_VALUES: "(pictures, 3, height, width)",
    }[name]
    field, value = _field("shape", name), list(shape[:8])
    if not good or min(shape) < 1:
        raise InvalidInputError("not the shape of this input", field=field, value=value, fix=f"send {expected}")
    if shape[0] > MAX_PICTURES:
        fix = f"send at most {MAX_PICTURES} pictures in a request"
        raise InvalidInputError("too many pictures", field=field, value=value, fix=fix)
    if name == ENCODED:
        return 0
    if name == PICTURE:
        PictureLimits().check(shape[2], shape[1])
    size = math.prod(shape) * (4 if name == PIXEL_VALUES else 1)
    if size > MAX_MESSAGE_BYTES:
        fix = f"send at most {MAX_MESSAGE_BYTES:,} bytes in a request"
        raise TooLargeError("the input is too large", field=field, value=value, fix=fix)
    return size


def _raw(request: Any, at: Place | None, read: Read, name: str) -> bytes:
    contents = request.raw_input_contents
    if request.inputs[0].HasField("contents") or len(contents) != (1 if at is None else 0):
        fix = "put it into raw_input_contents, into contents, or into shared memory: once"
        value = f"{len(contents)} raw contents"
        raise InvalidInputError("the data of the input is not there once", field=f"inputs.{name}", value=value, fix=fix)
    return bytes(contents[0]) if at is None else read(at, f"inputs.{name}")


def _typed(name: str, shape: tuple[int, ...], contents: Any) -> Pictures:
    own = {PICTURE: "uint_contents", ENCODED: "bytes_contents", PIXEL_VALUES: "fp32_contents"}[name]
    numbers, count = getattr(contents, own), shape[0] if name == ENCODED else math.prod(shape)
    others = [field.name for field, _ in contents.ListFields() if field.name != own]
    if others or len(numbers) != count:
        fix = f"send {count:,} values in contents.{own}, or the bytes in raw_input_contents"
        value = ", ".join(others) or f"{len(numbers)} values"
        raise InvalidInputError("wrong contents", field=f"inputs.{name}.contents", value=value, fix=fix)
    if name == ENCODED:
        return Encoded(list(numbers))
    if name == PIXEL_VALUES:
        return Normalised(np.fromiter(numbers, np.float32, count).reshape(shape))
    wide = np.fromiter(numbers, np.uint32, count)
    if wide.max() > 255:
        fix = "send numbers from 0 to 255"
        raise InvalidInputError("not UINT8", field=f"inputs.{name}.contents", value=wide.max(), fix=fix)
    return Raw(wide.astype(np.uint8).reshape(shape))


def _strings(data: bytes, count: int) -> Iterator[bytes]:
    """Strings with four bytes of length before each."""
    at = 0
    for _ in range(count):
        length = struct.unpack_from("<I", data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + length > len(data):
            raise _not_strings(data, count)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length
    if at != len(data):
        raise _not_strings(data, count)


def _not_strings(data: bytes, count: int) -> InvalidInputError:
    message, value = f"not {count} strings, each behind its length in four bytes", f"{len(data)} bytes"
    fix = "let tritonclient pack them: set_data_from_numpy of an array of bytes"
    return InvalidInputError(message, field=f"inputs.{ENCODED}", value=value, fix=fix)


def _denormalised(values: Tensor, preprocessing: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    levels = (values * std + mean) * 255
    whole = levels.round()
    good = ((levels - whole).abs() <= TOLERANCE * 255) & (whole >= 0) & (whole <= 255)
    if not bool(good.all()):
        value = f"{int((~good).sum())} of {good.numel()} values"
        fix = (
            "send what the adapter's preprocessing gives, without another scaling or crop behind it; or send `picture`"
        )
        message = "these are not the normalised pixels of a picture"
        raise InvalidInputError(message, field=f"inputs.{PIXEL_VALUES}", value=value, fix=fix)
    return whole.to(torch.uint8)


def _field(part: str, name: str = PIXEL_VALUES) -> str:
    return f"inputs.{name}.{part}"
