"""The table serves every shape, its tiles are such as Triton takes, and none of its rows is dead."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount_adapters.lora import MAX_RANK
from lensmount_server.engine.cuda.configs import ANY, SMALLEST_SIDE, TABLE, Config, Row, padded_rank, pick

sizes = st.integers(1, 1 << 22)
ranks = st.sampled_from([16, 32, 64, 128, 256])


def power_of_two(side: int) -> bool:
    return side >= SMALLEST_SIDE and side & (side - 1) == 0


def served_by(table: tuple[Row, ...]) -> set[int]:
    """The rows that serve some shape: it is enough to try every bound and the value behind it."""
    bounds = [{getattr(row, name) for row in table} for name in ("lines", "n", "k")]
    around = [sorted({1, *bound, *(min(b, ANY - 1) + 1 for b in bound)}) for bound in bounds]
    found = set()
    for itemsize, lines, n, k, rank in product((2, 4), *around, (16, 64, 128, 256)):
        wanted = (lines, n, k, rank)
        rows = enumerate(table)
        fits = (
            i
            for i, row in rows
            if row.itemsize == itemsize
            and all(a <= b for a, b in zip(wanted, (row.lines, row.n, row.k, row.rank), strict=True))
        )
        found.add(next(fits, -1))
    return found


@given(lines=sizes, n=sizes, k=sizes, rank=ranks, itemsize=st.sampled_from([2, 4]))
def test_every_shape_has_a_config_that_triton_takes(lines: int, n: int, k: int, rank: int, itemsize: int) -> None:
    config = pick(lines, n, k, rank, itemsize)
    assert all(power_of_two(side) for side in (config.block_m, config.block_n, config.block_k))
    assert config.warps in (1, 2, 4, 8)
    assert config.stages >= 2


def test_every_row_serves_some_shape_and_every_shape_is_served() -> None:
    assert served_by(TABLE) == set(range(len(TABLE)))


def test_a_row_behind_a_wider_one_would_be_found() -> None:
    wider = Row(2, ANY, ANY, ANY, 256, Config(16, 16, 16, 1, 2))
    assert served_by((wider, *TABLE)) != set(range(len(TABLE) + 1))


@pytest.mark.parametrize(
    ("lines", "block_m"), [(1, 16), (64, 16), (65, 32), (2 * 197, 32), (8 * 197, 128), (32 * 197, 128)]
)
def test_more_lines_take_taller_tiles(lines: int, block_m: int) -> None:
    assert pick(lines, 384, 384, 16, itemsize=2).block_m == block_m


def test_a_tile_is_no_wider_than_a_narrow_matrix() -> None:
    assert pick(8 * 3136, 24, 64, 16, itemsize=2).block_n == 32
    assert pick(8 * 3136, 512, 64, 16, itemsize=2).block_n == 128


@given(rank=st.integers(1, MAX_RANK))
def test_a_rank_is_padded_to_the_next_side_that_triton_takes(rank: int) -> None:
    side = padded_rank(rank)
    assert power_of_two(side)
    assert rank <= side
    assert side == SMALLEST_SIDE or side < 2 * rank
