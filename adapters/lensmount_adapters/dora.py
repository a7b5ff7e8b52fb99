"""DoRA (arXiv 2402.09353): the length of every row of a weight is learned apart from its direction.

    W' = m · (W + scale · B A) / ‖W + scale · B A‖        norms row by row, a row for each output

Every output is scaled, so what DoRA adds has full rank and no A and B can hold it: it is merged when an adapter is
loaded. As in PEFT a module's bias is not scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor


def with_lengths(weight: Tensor, magnitude: Tensor) -> Tensor:
    """The weight (out, in, …), each of its rows brought to the length that `magnitude` (out,) gives it."""
    rows = weight.flatten(1)
    factors: Tensor = magnitude.to(weight.dtype) / torch.linalg.vector_norm(rows, dim=1)
    return (rows * factors[:, None]).reshape(weight.shape)
