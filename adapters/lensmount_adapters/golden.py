"""The golden check: a few pictures with the logits that the trainer got.

A server runs them through its own serving path before a version may be served; a wrong
colour order, resize, backbone or stale weight shows as different logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.pictures import Pixels, check_sides

MAX_PICTURES = 16
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
FILE = "golden.safetensors"
FIX = "write the package with `lensmount train`"


@dataclass(frozen=True, eq=False)
class Golden:
    """`pictures`: uint8 RGB (h, w, 3), sizes may differ; `logits`: float32 (pictures, labels)."""

    pictures: tuple[Pixels, ...]
    logits: Tensor


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.safetensors` into a package folder."""
    tensors = {f"picture.{i:02d}": torch.from_numpy(pixels) for i, pixels in enumerate(golden.pictures)}
    save_file({**tensors, "logits": golden.logits.float().contiguous()}, folder / FILE)


def read_golden(folder: Path, labels: int) -> Golden:
    """Read and check `golden.safetensors`; raises InvalidInputError."""
    with safe_open(folder / FILE, framework="pt") as file:
        names = sorted(file.keys())
        count = len(names) - 1
        if "logits" not in names or not 1 <= count <= MAX_PICTURES:
            message, value = f"1 to {MAX_PICTURES} pictures and their logits expected", ", ".join(names[:4])
            raise InvalidInputError(message, field=FILE, value=value, fix=FIX)
        tensors = {name: file.get_tensor(name) for name in names}
    logits = tensors.pop("logits")
    if logits.dtype != torch.float32 or tuple(logits.shape) != (count, labels):
        message, value = f"float32 of shape {(count, labels)} expected", f"{logits.dtype} {tuple(logits.shape)}"
        raise InvalidInputError(message, field=f"{FILE}: logits", value=value, fix=FIX)
    if not bool(torch.isfinite(logits).all()):
        raise InvalidInputError("holds NaN or infinity", field=f"{FILE}: logits", fix=FIX)
    return Golden(tuple(_pixels(name, tensor) for name, tensor in tensors.items()), logits)


def compare_logits(golden: Golden, served: Tensor, precision: str) -> float:
    """The largest difference relative to the scale of the logits.

    Raises IncompatibleError when it is beyond the tolerance of `precision` ("fp32" or "bf16").
    """
    scale = max(float(golden.logits.abs().max()), 1.0)
    difference = float((golden.logits - served.float().cpu()).abs().max()) / scale
    if not difference <= TOLERANCE[precision]:
        message = f"the served logits differ from the trainer's by {difference:.2g}, {TOLERANCE[precision]:.0e} allowed"
        fix = "train again with the preprocessing and backbone of this server"
        raise IncompatibleError(message, field="golden check", value=f"{difference:.3g}", fix=fix)
    return difference


def _pixels(name: str, tensor: Tensor) -> Pixels:
    if tensor.dtype != torch.uint8 or tensor.ndim != 3 or tensor.shape[2] != 3:
        message = "uint8 of shape (height, width, 3) expected"
        value = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise InvalidInputError(message, field=f"{FILE}: {name}", value=value, fix=FIX)
    check_sides(tensor.shape[1], tensor.shape[0], field=f"{FILE}: {name}")
    return np.ascontiguousarray(tensor.numpy())
