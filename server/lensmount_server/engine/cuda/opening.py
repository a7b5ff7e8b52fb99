"""The executor of a GPU, in the precision that its backbone stands."""

from __future__ import annotations

from typing import cast

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cpu.costs import COARSE
from lensmount_server.engine.cpu.probes import Probes
from lensmount_server.engine.cpu.units import SegmentRange
from lensmount_server.engine.cuda.executor import CudaExecutor
from lensmount_server.engine.cuda.precision import DTYPES, Precision, in_precision


def cuda_executor(backbone: Backbone, precision: str) -> CudaExecutor:
    """Move the backbone to the GPU, in place, and make its executor; "auto" is bf16 where that is fine enough."""
    backbone.model.to("cuda")
    if precision == "auto":
        precision = "bf16" if _error(backbone, "bf16") <= COARSE else "fp32"
    return CudaExecutor(backbone, cast("Precision", precision))


@torch.inference_mode()
def _error(backbone: Backbone, precision: Precision) -> float:
    """How far pooled features are from fp32: root mean square, relative to them."""
    whole = SegmentRange(0, len(backbone.segments), backbone.preprocessing)
    probes, low = Probes(backbone), in_precision(backbone, precision)
    x = backbone.preprocessing.normalize(probes.at(whole)).to(DTYPES[precision])
    for segment in low.segments:
        x = segment(x)
    wanted, got = backbone.pool(probes.behind(whole)), backbone.pool(x.float())
    return float((got - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt().clamp_min(1e-12))
