"""What a safetensors file says of its tensors before one of them is read: name, type and shape.

A header is small and a tensor need not be, so whatever can be refused by the header is, before memory is taken.
The format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensmount.errors import InvalidInputError, TooLargeError

FLOATS = ("F32", "F16", "BF16")
WHOLE = ("I64",)

# The header of 20,000 tensors with names of 250 characters.
MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 20_000
FIX_COUNT = "train a smaller adapter: fewer segments"

_WORDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


@dataclass(frozen=True)
class Entry:
    """A tensor's type, in safetensors' word for it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        """What a file would say of a tensor."""
        return cls(_WORDS.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))


def check_header(path: Path) -> None:
    """Raise TooLargeError for more header, or more tensors, than a package may have; damage is not looked for."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length <= size:
        message = f"a header of at most {MAX_HEADER_BYTES:,} bytes"
        raise TooLargeError(message, field=path.name, value=f"{length:,} bytes", fix=FIX_COUNT)
    if length > size:
        return
    try:
        with opened(path) as file:
            count = len(file.keys())
    except InvalidInputError:
        return
    if count > MAX_TENSORS:
        raise TooLargeError(f"at most {MAX_TENSORS:,} tensors", field=path.name, value=count, fix=FIX_COUNT)


def read_entries(path: Path) -> dict[str, Entry]:
    """What a file says of its tensors, by name and in name order; raises InvalidInputError for a damaged one."""
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {name: Entry(own.get_dtype(), tuple(own.get_shape())) for name, own in slices.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, in memory of their own: what happens to the file does not reach them.

    Raises InvalidInputError for a damaged file.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in sorted(file.keys())}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; InvalidInputError where it is damaged."""
    with damage_named(path.name), safe_open(path, framework="pt") as file:
        yield file


@contextmanager
def damage_named(file: str) -> Iterator[None]:
    """Turn what safetensors raises while it reads into InvalidInputError for that file."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        message = f"not a readable safetensors file: {error}"
        raise InvalidInputError(message, field=file, fix="send the package again; the file is damaged") from error
