"""The golden check: a few pictures with the logits that the trainer got.

A server runs them through its own serving path before a version may be served; a wrong
colour order, resize, backbone or stale weight shows as different logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.headers import Entry, read_tensors
from lensmount_adapters.pictures import Pixels, check_sides
from lensmount_adapters.saving import save_tensors

MAX_PICTURES = 16
MAX_SIDE = 512
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
    save_tensors({**tensors, "logits": golden.logits.float().contiguous()}, folder / FILE)


def check_golden_names(entries: Mapping[str, Entry]) -> None:
    """Raise InvalidInputError unless there are logits and as many pictures as there may be."""
    if "logits" not in entries or not 1 <= len(entries) - 1 <= MAX_PICTURES:
        message, value = f"1 to {MAX_PICTURES} pictures and their logits expected", ", ".join(list(entries)[:4])
        raise InvalidInputError(message, field=FILE, value=value, fix=FIX)


def check_golden_shapes(entries: Mapping[str, Entry], labels: int) -> None:
    """Raise InvalidInputError or TooLargeError unless logits are (pictures, labels) and pictures (height, width, 3)."""
    wanted = (len(entries) - 1, labels)
    for name, entry in entries.items():
        field = f"{FILE}: {name}"
        if name == "logits" and entry.shape != wanted:
            raise InvalidInputError(f"shape {wanted} expected", field=field, value=entry.shape, fix=FIX)
        if name != "logits":
            if len(entry.shape) != 3 or entry.shape[2] != 3:
                raise InvalidInputError("shape (height, width, 3) expected", field=field, value=entry.shape, fix=FIX)
            check_sides(entry.shape[1], entry.shape[0], field=field)


def check_golden_dtypes(entries: Mapping[str, Entry]) -> None:
    """Raise InvalidInputError unless logits are F32 and pictures U8."""
    for name, entry in entries.items():
        wanted = "F32" if name == "logits" else "U8"
        if entry.dtype != wanted:
            raise InvalidInputError(f"{wanted} expected", field=f"{FILE}: {name}", value=entry.dtype, fix=FIX)


def read_golden(folder: Path) -> Golden:
    """Read `golden.safetensors`, whose entries were checked; raises InvalidInputError for NaN or infinity."""
    tensors = read_tensors(folder / FILE)
    logits = tensors.pop("logits")
    if not bool(torch.isfinite(logits).all()):
        raise InvalidInputError("holds NaN or infinity", field=f"{FILE}: logits", fix=FIX)
    return Golden(tuple(tensor.numpy() for tensor in tensors.values()), logits)


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


def shrunk(pixels: Pixels) -> Pixels:
    """A picture small enough to travel with a package: no side longer than `MAX_SIDE` pixels."""
    height, width = pixels.shape[:2]
    ratio = MAX_SIDE / max(height, width)
    if ratio >= 1:
        return pixels
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    scaled = F.interpolate(picture, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
