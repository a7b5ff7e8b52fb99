"""Taking tensors out of a package one by one, so that what is left over is known to belong to nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.lora import check_shape
from lensmount_adapters.package import CONFIG_FILE, TENSOR_FILE

FIX = "train the adapter again on this server's backbone"
FIX_TENSORS = "write the package with `lensmount train`; edits and tensors must belong together"


def take(tensors: dict[str, Tensor], name: str, own: Tensor, device: torch.device) -> Tensor:
    """The tensor of this name, on the device. Raises InvalidInputError unless it can stand in the place of `own`."""
    if name not in tensors:
        raise InvalidInputError("missing", field=f"{TENSOR_FILE}: {name}", fix=FIX)
    tensor = tensors.pop(name)
    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        message, value = f"{own.dtype} of shape {tuple(own.shape)} expected", f"{tensor.dtype} {tuple(tensor.shape)}"
        raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=value, fix=FIX)
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else own.dtype)


def take_if(
    tensors: dict[str, Tensor], name: str, shape: Sequence[int], setting: str, *, wanted: bool
) -> Tensor | None:
    """The tensor of this name and shape; None where a setting of PEFT wants none.

    Raises InvalidInputError unless it is there exactly when it is wanted.
    """
    if wanted != (name in tensors):
        message = f"{'missing' if wanted else 'given'}, and {CONFIG_FILE} says {setting}"
        raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=FIX_TENSORS)
    tensor = tensors.pop(name, None)
    if tensor is not None:
        check_shape(f"{TENSOR_FILE}: {name}", tensor, tuple(shape))
    return tensor
