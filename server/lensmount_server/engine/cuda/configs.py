"""Which tile sizes the kernel runs with: a table by lines, outputs, inputs and rank, and who picks.

Nobody has timed the table yet. What it rests on is what can be known without a device: tiles small
enough that a short batch still fills a GPU, no wider than the matrix; and the kernel compiled for
compute capability 8.0 and 9.0 stays within the shared memory of every GPU from 8.0 on, in half
precision without spilling a register. Float32 products run without tensor cores; their tiles are small.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

# tl.dot takes no side below 16, and tl.arange powers of two only.
SMALLEST_SIDE = 16
ANY = sys.maxsize


@dataclass(frozen=True)
class Config:
    """Lines, outputs and inputs of one tile; warps of a block and stages of its software pipeline."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Row:
    """One line of the table: `config` serves what exceeds none of the bounds; `itemsize` is bytes of a value."""

    itemsize: int
    lines: int
    n: int
    k: int
    rank: int
    config: Config


# By lines (a ViT-S/16 frame has 197, so: less than a frame, a frame or two, a batch), then outputs, inputs and rank.
TABLE = (
    Row(2, 64, ANY, 32, 64, Config(16, 32, 32, 2, 2)),
    Row(2, 64, ANY, ANY, 64, Config(16, 64, 64, 4, 3)),
    Row(2, 64, ANY, ANY, 256, Config(16, 32, 32, 4, 3)),
    Row(2, 512, 32, ANY, 64, Config(32, 32, 64, 4, 3)),
    Row(2, 512, ANY, 32, 64, Config(32, 64, 32, 4, 2)),
    Row(2, 512, ANY, ANY, 64, Config(32, 64, 64, 4, 3)),
    Row(2, 512, ANY, ANY, 256, Config(32, 64, 32, 4, 3)),
    Row(2, ANY, 32, ANY, 64, Config(128, 32, 32, 4, 3)),
    Row(2, ANY, 64, ANY, 64, Config(128, 64, 32, 4, 3)),
    Row(2, ANY, ANY, 32, 64, Config(64, 128, 32, 4, 2)),
    Row(2, ANY, ANY, ANY, 64, Config(128, 128, 32, 8, 3)),
    Row(2, ANY, ANY, ANY, 128, Config(64, 128, 32, 8, 3)),
    Row(2, ANY, ANY, ANY, 256, Config(64, 64, 32, 8, 3)),
    Row(4, 64, ANY, ANY, 64, Config(16, 32, 32, 4, 2)),
    Row(4, ANY, ANY, ANY, 16, Config(64, 64, 16, 8, 2)),
    Row(4, ANY, ANY, ANY, 64, Config(32, 32, 16, 8, 2)),
    Row(4, ANY, ANY, ANY, 128, Config(16, 32, 16, 8, 2)),
    Row(4, ANY, ANY, ANY, 256, Config(16, 16, 16, 4, 2)),
)


def pick(lines: int, n: int, k: int, rank: int, itemsize: int) -> Config:
    """The tile sizes for x (`lines`, `k`), W (`n`, `k`), a padded `rank` of at most 256, values of 2 or 4 bytes."""
    rows = (row for row in TABLE if row.itemsize == itemsize)
    return next(row.config for row in rows if lines <= row.lines and n <= row.n and k <= row.k and rank <= row.rank)


def padded_rank(rank: int) -> int:
    """The side that the kernel gives a rank: 16, 32, 64, 128 or 256, for ranks of at most 256.

    A multiple of 16 would do for tl.dot; tl.arange wants a power of two.
    """
    return max(SMALLEST_SIDE, 1 << (rank - 1).bit_length())
