"""Convolutions with edits equal their delta added run by run, whichever way they are computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.cuda.convolution import edited_conv, is_pointwise
from lensmount_server.engine.cuda.stack import Stack
from lensmount_server.engine.cuda.tiles import NO_SLOT, Run

RUNS = (Run(NO_SLOT, 1), Run(1, 2), Run(NO_SLOT, 1), Run(0, 1))
SHAPES: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "1x1 without bias": {"kernel_size": 1, "bias": False},
    "1x1 with stride": {"kernel_size": 1, "stride": 2},
    "1x1 with padding": {"kernel_size": 1, "padding": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "3x3 with stride": {"kernel_size": 3, "stride": (2, 1), "padding": (1, 0), "bias": False},
    "3x3 dilated": {"kernel_size": 3, "padding": "same", "dilation": 2},
    "patches": {"kernel_size": 4, "stride": 4},
}


def delta(module: nn.Conv2d, rank: int, scale: float, bias: Tensor | None = None) -> LoraDelta:
    a = torch.randn(rank, module.in_channels, *module.kernel_size) * module.weight[0].numel() ** -0.5
    return LoraDelta(a, torch.randn(module.out_channels, rank, 1, 1), scale, bias)


def expected(module: nn.Conv2d, x: Tensor, edits: dict[int, LoraDelta]) -> Tensor:
    y: Tensor = module(x)
    start = 0
    for run in RUNS:
        own = slice(start, start + run.rows)
        if run.slot in edits:
            y[own] += edits[run.slot].to(x.device).of(module, x[own])
        start += run.rows
    return y


def distance(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_gets_its_own_edit(shape: str, *, channels_last: bool, device: torch.device) -> None:
    module = nn.Conv2d(6, 10, **SHAPES[shape]).to(device)
    edits = {0: delta(module, 4, 0.5), 1: delta(module, 3, 2.0, 5 * torch.randn(10))}
    stack = Stack.empty(module, 2, 16, torch.float32)
    for slot, edit in edits.items():
        stack.write(slot, edit)
    x = torch.randn(5, 6, 8, 9, device=device)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    wanted = expected(module, x, edits)
    assert distance(edited_conv(module, module.forward, x, stack, RUNS), wanted) < 1e-5
    assert distance(expected(module, x, {0: edits[1], 1: edits[0]}), wanted) > 0.1
    assert distance(expected(module, x, {**edits, 1: replace(edits[1], bias=None)}), wanted) > 0.1


def test_only_a_product_of_single_pixels_goes_through_the_kernel() -> None:
    pointwise = {shape for shape, options in SHAPES.items() if is_pointwise(nn.Conv2d(6, 10, **options))}
    assert pointwise == {"1x1", "1x1 without bias", "1x1 with stride"}
    assert not is_pointwise(nn.Conv2d(6, 6, 1, groups=2))


@torch.inference_mode()
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_rows_that_can_not_be_told_apart_are_refused(kernel_size: int, device: torch.device) -> None:
    module = nn.Conv2d(6, 10, kernel_size).to(device)
    stack = Stack.empty(module, 2, 16, torch.float32)
    with pytest.raises(ServerError, match="can not be told apart"):
        edited_conv(module, module.forward, torch.randn(7, 6, 8, 8, device=device), stack, RUNS)
