"""One pass over x for the base weights and for every row's own low-rank edit, in the Triton language.

    y = x Wᵀ + bias + scale[slot] · (x A[slot]ᵀ) B[slot]ᵀ + own_bias[slot]        slot -1: without what has a slot

Each program computes one tile of y. It reads its tile of x once and multiplies it with W and with
its slot's A side by side; the small product with B comes at the end. What that saves against a
second kernel is reading x and y again (Punica, arXiv 2310.18547, and S-LoRA, arXiv 2311.03285,
add to a finished y); what it costs is x Aᵀ once for every column of tiles: rank ÷ block_n of the
base product. Sums are float32 whatever the values are, and float32 values are multiplied as such
(IEEE, no TF32), as torch does unless told otherwise.

With TRITON_INTERPRET=1 in the environment when this module is first imported, Triton's interpreter
runs the kernel on the CPU. It keeps bfloat16 as integers and would multiply those, so `widen` has
the tiles made float32 first there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lensmount_server.engine.cuda.configs import pick
from lensmount_server.engine.cuda.stack import Stack
from lensmount_server.engine.cuda.tiles import Runs, check_shares, device_tiles


@triton.jit  # type: ignore[untyped-decorator] # Triton publishes no types
def edited_product(  # noqa: PLR0913, PLR0917 # a kernel has no structures to pass
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    a: tl.tensor,
    b: tl.tensor,
    scale: tl.tensor,
    own_bias: tl.tensor,
    tiles: tl.tensor,
    y: tl.tensor,
    n: int,
    k: int,
    rank: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    has_bias: tl.constexpr,
    widen: tl.constexpr,
) -> None:
    """One tile of y (lines, n), from x (lines, k), weight (n, k) and bias (n,).

    Edits are a (slots, rank, k), b (slots, n, rank), own_bias (slots, n) and, in float32, scale (slots,). All
    contiguous, `tiles` (tiles, 3) as in tiles.py; the grid is (tiles, blocks of n).
    """
    tile = tiles + 3 * tl.program_id(0)
    start, stop, slot = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    lines = start + tl.arange(0, block_m)
    outputs = tl.program_id(1) * block_n + tl.arange(0, block_n)
    inputs = tl.arange(0, block_k)
    ranks = tl.arange(0, rank)
    here = (lines < stop)[:, None]
    there = (outputs < n)[None, :]
    # 64 bits: a convolution's lines × inputs may exceed 2³¹.
    x_tile = x + lines.to(tl.int64)[:, None] * k + inputs[None, :]
    w_tile = weight + outputs.to(tl.int64)[None, :] * k + inputs[:, None]
    sums = tl.full((block_m, block_n), 0.0, tl.float32)
    if slot >= 0:
        own = slot.to(tl.int64)
        a_tile = a + own * rank * k + ranks[None, :] * k + inputs[:, None]
        low = tl.full((block_m, rank), 0.0, tl.float32)
        for step in range(0, k, block_k):
            left = inputs < k - step
            xs = tl.load(x_tile + step, mask=here & left[None, :], other=0.0)
            ws = tl.load(w_tile + step, mask=there & left[:, None], other=0.0)
            as_ = tl.load(a_tile + step, mask=left[:, None], other=0.0)
            if widen:
                xs, ws, as_ = xs.to(tl.float32), ws.to(tl.float32), as_.to(tl.float32)
            sums = tl.dot(xs, ws, sums, input_precision="ieee")
            low = tl.dot(xs, as_, low, input_precision="ieee")
        b_tile = b + own * n * rank + outputs[None, :] * rank + ranks[:, None]
        bs = tl.load(b_tile, mask=there, other=0.0)
        if widen:
            bs = bs.to(tl.float32)
        sums += tl.load(scale + slot) * tl.dot(low.to(bs.dtype), bs, input_precision="ieee")
        sums += tl.load(own_bias + own * n + outputs, mask=outputs < n, other=0.0).to(tl.float32)[None, :]
    else:
        for step in range(0, k, block_k):
            left = inputs < k - step
            xs = tl.load(x_tile + step, mask=here & left[None, :], other=0.0)
            ws = tl.load(w_tile + step, mask=there & left[:, None], other=0.0)
            if widen:
                xs, ws = xs.to(tl.float32), ws.to(tl.float32)
            sums = tl.dot(xs, ws, sums, input_precision="ieee")
    if has_bias:
        sums += tl.load(bias + outputs, mask=outputs < n, other=0.0).to(tl.float32)[None, :]
    y_tile = y + lines.to(tl.int64)[:, None] * n + outputs[None, :]
    tl.store(y_tile, sums.to(y.dtype.element_ty), mask=here & there)


INTERPRETED = bool(triton.knobs.runtime.interpret)


def edited_linear(x: Tensor, weight: Tensor, bias: Tensor | None, stack: Stack, runs: Runs) -> Tensor:
    """`F.linear(x, weight, bias)` with every run's own edit added.

    x (entries, …, in), each row an equal share of the entries in the order of `runs`; the result is
    (entries, …, out). x, weight, bias and the stack are of one dtype: float32, float16 or bfloat16.
    Raises ServerError when the entries can not be shared out.
    """
    check_shares(runs, x.shape[0])
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    lines, (n, k) = flat.shape[0], weight.shape
    y = flat.new_empty(lines, n)
    config = pick(lines, n, k, stack.rank, x.itemsize)
    tiles = device_tiles(runs, lines, config.block_m, x.device)
    edited_product[tiles.shape[0], triton.cdiv(n, config.block_n)](
        *(flat, weight.contiguous(), weight if bias is None else bias, *stack.tensors, tiles, y, n, k),
        rank=stack.rank,
        block_m=config.block_m,
        block_n=config.block_n,
        block_k=config.block_k,
        has_bias=bias is not None,
        widen=INTERPRETED and x.dtype == torch.bfloat16,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return y.view(*x.shape[:-1], n)
