"""The kernel gives every row the base product and its own slot's edit, and nothing of any other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.cuda.kernel import INTERPRETED, edited_linear, edited_product
from lensmount_server.engine.cuda.stack import Stack
from lensmount_server.engine.cuda.tiles import NO_SLOT, Run, Runs, device_tiles, runs_of

SLOTS = 5
FAR = 0.1
# The interpreter cuts where a GPU rounds to bfloat16, so two units in the last place are allowed.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2**-7}
DTYPES = list(TOLERANCE)

Deltas = Mapping[int, LoraDelta]


def deltas(n: int, k: int, ranks: Mapping[int, int]) -> Deltas:
    """Edits by slot; every second one has a bias."""
    return {
        slot: LoraDelta(
            torch.randn(rank, k) * k**-0.5,
            torch.randn(n, rank) * rank**-0.5,
            0.5 + slot,
            torch.randn(n) if slot % 2 else None,
        )
        for slot, rank in ranks.items()
    }


def stack_of(module: nn.Linear, edits: Deltas, rank: int, dtype: torch.dtype) -> Stack:
    stack = Stack.empty(module, SLOTS, rank, dtype)
    for slot, delta in edits.items():
        stack.write(slot, delta)
    return stack


def expected(module: nn.Linear, x: Tensor, edits: Deltas, runs: Runs) -> Tensor:
    """The same in float64, run by run."""
    share = len(x) // sum(run.rows for run in runs)
    parts = []
    for run, part in zip(runs, torch.split(x.double(), [run.rows * share for run in runs]), strict=True):
        y = part @ module.weight.double().T
        if module.bias is not None:
            y = y + module.bias.double()
        if run.slot in edits:
            delta = edits[run.slot]
            y = y + delta.scale * (part @ delta.a.to(x).double().T) @ delta.b.to(x).double().T
            if delta.bias is not None:
                y = y + delta.bias.to(x).double()
        parts.append(y)
    return torch.cat(parts)


def distance(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "bias"), [(64, 64, True), (50, 40, True), (192, 64, False), (8, 17, True)])
def test_every_row_gets_its_own_edit(n: int, k: int, *, bias: bool, dtype: torch.dtype, device: torch.device) -> None:
    module = nn.Linear(k, n, bias=bias, device=device, dtype=dtype)
    edits = deltas(n, k, {0: 1, 1: 4, 2: 16, 3: 7})
    runs = (Run(NO_SLOT, 2), Run(1, 1), Run(3, 3), Run(NO_SLOT, 1), Run(0, 1), Run(2, 2))
    x = torch.randn(10, 7, k, device=device, dtype=dtype)
    got = edited_linear(x, module.weight, module.bias, stack_of(module, edits, 16, dtype), runs)
    assert got.dtype == dtype
    assert distance(got, expected(module, x, edits, runs)) < TOLERANCE[dtype]


@torch.inference_mode()
@pytest.mark.parametrize("rank", [32, 64, 128, 256])
@pytest.mark.parametrize("lines", [3, 40, 300])
def test_every_rank_does(lines: int, rank: int, device: torch.device) -> None:
    module = nn.Linear(48, 24, device=device)
    edits = deltas(24, 48, {0: rank - 3, 1: 2})
    runs = (Run(0, 1), Run(1, 1))
    x = torch.randn(2, lines, 48, device=device)
    got = edited_linear(x, module.weight, module.bias, stack_of(module, edits, rank, torch.float32), runs)
    assert distance(got, expected(module, x, edits, runs)) < TOLERANCE[torch.float32]


@settings(max_examples=25, deadline=None)
@given(
    pieces=st.lists(st.builds(Run, st.integers(NO_SLOT, SLOTS - 1), st.integers(1, 4)), min_size=1, max_size=6),
    tokens=st.integers(1, 40),
)
@torch.inference_mode()
def test_any_mix_of_slots_does(pieces: list[Run], tokens: int) -> None:
    device = torch.device("cpu" if INTERPRETED else "cuda")
    module = nn.Linear(24, 40, device=device)
    edits = deltas(40, 24, {slot: 1 + 3 * slot for slot in range(SLOTS)})
    runs = runs_of(pieces)
    x = torch.randn(sum(run.rows for run in runs), tokens, 24, device=device)
    got = edited_linear(x, module.weight, module.bias, stack_of(module, edits, 16, torch.float32), runs)
    assert distance(got, expected(module, x, edits, runs)) < TOLERANCE[torch.float32]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", DTYPES)
def test_exchanged_slots_would_be_caught(dtype: torch.dtype, device: torch.device) -> None:
    module = nn.Linear(64, 64, device=device, dtype=dtype)
    edits = deltas(64, 64, {0: 4, 1: 4})
    x = torch.randn(6, 5, 64, device=device, dtype=dtype)
    stack = stack_of(module, {0: edits[1], 1: edits[0]}, 16, dtype)
    runs = (Run(0, 3), Run(1, 3))
    assert distance(edited_linear(x, module.weight, module.bias, stack, runs), expected(module, x, edits, runs)) > FAR


@torch.inference_mode()
def test_a_bias_in_another_slot_would_be_caught(device: torch.device) -> None:
    module = nn.Linear(64, 64, device=device)
    edits = deltas(64, 64, {0: 4, 1: 4})
    stack = stack_of(module, edits, 16, torch.float32)
    x, runs = torch.randn(6, 5, 64, device=device), (Run(0, 3), Run(1, 3))
    wanted = expected(module, x, edits, runs)
    assert distance(edited_linear(x, module.weight, module.bias, stack, runs), wanted) < TOLERANCE[torch.float32]
    for wrong in (stack.bias.flip(0), torch.zeros_like(stack.bias)):
        moved = replace(stack, bias=wrong)
        assert distance(edited_linear(x, module.weight, module.bias, moved, runs), wanted) > FAR


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@torch.inference_mode()
def test_what_is_wrong_in_one_slot_or_row_stays_there(device: torch.device) -> None:
    module = nn.Linear(32, 32, device=device)
    edits = deltas(32, 32, {0: 4, 1: 4})
    stack = stack_of(module, edits, 16, torch.float32)
    x = torch.randn(4, 5, 32, device=device)
    runs = (Run(NO_SLOT, 1), Run(0, 1), Run(1, 2))
    clean = edited_linear(x, module.weight, module.bias, stack, runs)
    stack.a[0] = float("nan")
    x[3] = float("inf")
    got = edited_linear(x, module.weight, module.bias, stack, runs)
    assert torch.equal(got[[0, 2]], clean[[0, 2]])
    assert not bool(got[[1, 3]].isfinite().any())


@torch.inference_mode()
def test_rows_cut_into_windows_are_followed(device: torch.device) -> None:
    module = nn.Linear(16, 16, device=device)
    edits = deltas(16, 16, {0: 2, 1: 3})
    runs = (Run(0, 1), Run(1, 2))
    x = torch.randn(3 * 4, 5, 16, device=device)
    got = edited_linear(x, module.weight, module.bias, stack_of(module, edits, 16, torch.float32), runs)
    assert got.shape == (12, 5, 16)
    assert distance(got, expected(module, x, edits, runs)) < TOLERANCE[torch.float32]


@torch.inference_mode()
def test_rows_that_can_not_be_told_apart_are_refused(device: torch.device) -> None:
    """20 lines would divide by two rows; 5 entries do not."""
    module = nn.Linear(16, 16, device=device)
    stack = Stack.empty(module, SLOTS, 16, torch.float32)
    with pytest.raises(ServerError, match="can not be told apart"):
        edited_linear(torch.randn(5, 4, 16, device=device), module.weight, None, stack, (Run(0, 1), Run(1, 1)))


@pytest.mark.skipif(not INTERPRETED, reason="about the interpreter")
@torch.inference_mode()
def test_the_interpreter_without_widening_would_multiply_the_bits_of_bfloat16() -> None:
    module = nn.Linear(32, 32, bias=False, dtype=torch.bfloat16)
    stack = Stack.empty(module, SLOTS, 16, torch.bfloat16)
    x = torch.randn(16, 32, dtype=torch.bfloat16)
    runs = (Run(NO_SLOT, 16),)
    wanted = expected(module, x, {}, runs)
    tiles = device_tiles(runs, 16, 16, x.device)
    for widen in (True, False):
        y = torch.empty(16, 32, dtype=torch.bfloat16)
        tensors = (x, module.weight, module.weight, *stack.tensors, tiles, y)
        sides = {"rank": 16, "block_m": 16, "block_n": 32, "block_k": 32}
        edited_product[1, 1](*tensors, 32, 32, **sides, has_bias=False, widen=widen)
        assert (distance(y, wanted) < TOLERANCE[torch.bfloat16]) == widen
