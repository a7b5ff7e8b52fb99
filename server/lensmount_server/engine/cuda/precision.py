"""A backbone in the precision that the device computes in; the shared one stays as it is."""

from __future__ import annotations

from typing import Literal

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.lowered import DTYPES, lowered

Precision = Literal["fp32", "bf16", "fp16"]


def forbid_tf32() -> None:
    """Have cuDNN multiply float32 as float32, for the whole process: it takes TF32 with its 10 bits unless told."""
    torch.backends.cudnn.allow_tf32 = False


def in_precision(backbone: Backbone, precision: Precision) -> Backbone:
    """The backbone itself in fp32, else a copy with rounded weights; its fingerprint stays that of the original."""
    return backbone if precision == "fp32" else lowered(backbone, DTYPES[precision])
