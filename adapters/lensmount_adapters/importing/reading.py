"""Tensors and settings of files that somebody else wrote: no code of theirs runs, no size is believed."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters.headers import MAX_TENSORS
from lensmount_adapters.package import MAX_BYTES, TENSOR_FILE

PICKLED = (".bin", ".pth", ".pt")
MAX_FILE_BYTES = MAX_BYTES[TENSOR_FILE]
MAX_JSON_BYTES = 1 << 20
# Where training programs put the weights in what they save; a moving average is what they evaluate.
NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrappers of torch put before every name.
WRAPPERS = ("module.", "_orig_mod.")
FIX = "save the weights as safetensors: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a file of torch.save's that holds only tensors; floats as float32.

    Raises InvalidInputError for a file that can not be read, holds anything that would run, or NaN;
    TooLargeError beyond the limits of a package.
    """
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        message, fix = f"at most {MAX_FILE_BYTES:,} bytes", "import a smaller model"
        raise TooLargeError(message, field=path.name, value=f"{size:,} bytes", fix=fix)
    found = _unpickled(path) if path.suffix in PICKLED else _load(path, load_file)
    _check_sizes(path.name, found)
    return {name: _float32(f"{path.name}: {name}", tensor) for name, tensor in found.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; raises InvalidInputError when it is none."""
    fix = "download it again; the file is damaged"
    if path.stat().st_size > MAX_JSON_BYTES:
        raise TooLargeError(f"at most {MAX_JSON_BYTES:,} bytes", field=path.name, fix=fix)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not readable as JSON: {error}", field=path.name, fix=fix) from error
    if not isinstance(found, dict):
        raise InvalidInputError("a JSON object expected", field=path.name, value=type(found).__name__, fix=fix)
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpickled(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of a pickle; either it is tensors or it is refused
        found = _load(path, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    for nest in NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
            break
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        message = "tensors by name expected, as in a state_dict"
        raise InvalidInputError(message, field=path.name, value=type(found).__name__, fix=FIX)
    return {_unwrapped(str(name)): tensor for name, tensor in found.items()}


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    try:
        return load(path)
    except pickle.UnpicklingError as error:
        message = "it holds more than tensors, and nothing in it was run"
        raise InvalidInputError(message, field=path.name, fix=FIX) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        fix = "download it again; the file is damaged"
        raise InvalidInputError(f"not readable: {reason}", field=path.name, fix=fix) from error


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _check_sizes(file: str, tensors: Mapping[str, Tensor]) -> None:
    """A pickled tensor may claim a shape that its few bytes are repeated for; in float32 it would be real."""
    if len(tensors) > MAX_TENSORS:
        message, fix = f"at most {MAX_TENSORS:,} tensors", "import a smaller model"
        raise TooLargeError(message, field=file, value=len(tensors), fix=fix)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    if 4 * numbers > MAX_FILE_BYTES:
        message, fix = f"at most {MAX_FILE_BYTES // 4:,} numbers", "import a smaller model"
        raise TooLargeError(message, field=file, value=f"{numbers:,}", fix=fix)


def _float32(field: str, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        message, fix = "dense tensors of plain numbers expected", "save the model without quantisation"
        raise InvalidInputError(message, field=field, value=tensor.dtype, fix=fix)
    if not tensor.is_floating_point():
        return tensor.contiguous()
    plain = tensor.detach().float().contiguous()
    if not bool(torch.isfinite(plain).all()):
        fix = "train again with a lower learning rate; these weights answer nothing"
        raise InvalidInputError("holds NaN or infinity", field=field, fix=fix)
    return plain
