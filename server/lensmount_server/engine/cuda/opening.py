"""The executor of a GPU, in the precision that its backbone stands."""

from __future__ import annotations

from typing import cast

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cuda.executor import CudaExecutor
from lensmount_server.engine.cuda.precision import Precision, in_precision
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.probes import COARSE, Probes
from lensmount_server.engine.ranges import whole


def cuda_executor(backbone: Backbone, precision: str) -> CudaExecutor:
    """Move the backbone to the GPU, in place, and make its executor; "auto" is bf16 where that is fine enough."""
    backbone.model.to("cuda")
    if precision == "auto":
        precision = "bf16" if error_in(backbone, "bf16") <= COARSE else "fp32"
    executor = CudaExecutor(backbone, cast("Precision", precision))
    executor.cut(len(backbone.segments), backbone.preprocessing)
    return executor


@torch.inference_mode()
def error_in(backbone: Backbone, precision: Precision) -> float:
    """How far pooled features in this precision are from fp32: root mean square, relative to them."""
    probes, low = Probes(backbone), in_precision(backbone, precision)
    x = backbone.preprocessing.normalize(probes.at(whole(backbone)))
    return probes.pooled_error(low.forward_features(x.to(DTYPES[precision])).float())
