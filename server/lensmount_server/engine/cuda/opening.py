"""The engine of a GPU, in the precision that its backbone stands."""

from __future__ import annotations

from typing import cast

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import Choice
from lensmount_server.engine.cuda.executor import CudaExecutor
from lensmount_server.engine.cuda.precision import Precision, in_precision
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.probes import COARSE, Probes
from lensmount_server.engine.ranges import whole
from lensmount_server.engine.runtime import Engine


def cuda_engine(backbone: Backbone, precision: str) -> Engine:
    """Move the backbone to the GPU, in place, and make its engine; "auto" is bf16 where that is fine enough."""
    backbone.model.to("cuda")
    chosen, reason = _stands(backbone) if precision == "auto" else (precision, f"--precision {precision}")
    executor = CudaExecutor(backbone, cast("Precision", chosen))
    executor.cut(len(backbone.segments), backbone.preprocessing)
    return Engine(backbone, executor, Choice(f"--device cuda; {reason}"))


def _stands(backbone: Backbone) -> tuple[Precision, str]:
    """The coarsest precision that the backbone stands, and why."""
    error = error_in(backbone, "bf16")
    reason = f"features in bf16 are {error:.2%} off fp32, {COARSE:.0%} may serve"
    return "bf16" if error <= COARSE else "fp32", reason


@torch.inference_mode()
def error_in(backbone: Backbone, precision: Precision) -> float:
    """How far pooled features in this precision are from fp32: root mean square, relative to them."""
    probes, low = Probes(backbone), in_precision(backbone, precision)
    x = backbone.preprocessing.normalize(probes.at(whole(backbone)))
    return probes.pooled_error(low.forward_features(x.to(DTYPES[precision])).float())
