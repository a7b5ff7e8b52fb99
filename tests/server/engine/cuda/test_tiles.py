"""Tiles cover every line once, and none has lines of two slots."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import ServerError
from lensmount_server.engine.cuda.tiles import (
    NO_SLOT,
    Run,
    Runs,
    check_shares,
    device_tiles,
    edited_rows,
    runs_of,
    tile_table,
)

CPU = torch.device("cpu")
pieces = st.lists(st.builds(Run, st.integers(NO_SLOT, 4), st.integers(1, 9)), min_size=1, max_size=8)
blocks = st.sampled_from([16, 32, 64, 128])
shares = st.integers(1, 50)


def slots_by_line(runs: list[Run] | Runs, share: int) -> npt.NDArray[np.int64]:
    return np.concatenate([np.full(run.rows * share, run.slot) for run in runs])


def painted(table: npt.NDArray[np.int32], lines: int) -> npt.NDArray[np.int64]:
    """The slot that the kernel would use for each line; fails where a line is in two tiles or in none."""
    seen = np.zeros(lines, dtype=int)
    slots = np.full(lines, -99)
    for start, stop, slot in table:
        seen[start:stop] += 1
        slots[start:stop] = slot
    assert (seen == 1).all()
    return slots


@given(pieces=pieces, share=shares, block=blocks)
def test_every_line_is_in_one_tile_of_its_own_slot(pieces: list[Run], share: int, block: int) -> None:
    runs = runs_of(pieces)
    lines = sum(run.rows for run in runs) * share
    table = tile_table(runs, lines, block)
    assert (painted(table, lines) == slots_by_line(pieces, share)).all()
    assert (table[:, 1] - table[:, 0] <= block).all()
    assert (table[:, 1] > table[:, 0]).all()


@given(pieces=pieces, share=shares, block=blocks)
def test_a_run_costs_at_most_one_partly_filled_tile(pieces: list[Run], share: int, block: int) -> None:
    runs = runs_of(pieces)
    table = tile_table(runs, sum(run.rows for run in runs) * share, block)
    assert ((table[:, 1] - table[:, 0]) < block).sum() <= len(runs)


def test_tiles_that_straddled_two_slots_would_be_caught() -> None:
    runs = (Run(0, 3), Run(1, 5))
    straddling = np.array([[0, 16, 0], [16, 32, 1]], dtype=np.int32)
    assert (painted(straddling, 32) != slots_by_line(runs, 4)).any()


@given(pieces=pieces)
def test_neighbours_of_one_slot_are_one_run(pieces: list[Run]) -> None:
    runs = runs_of(pieces)
    assert all(a.slot != b.slot for a, b in pairwise(runs))
    assert (slots_by_line(runs, 1) == slots_by_line(pieces, 1)).all()


@given(pieces=pieces, share=shares)
def test_rows_with_a_slot_are_found_with_it(pieces: list[Run], share: int) -> None:
    runs = runs_of(pieces)
    by_line = slots_by_line(pieces, share)
    places, slots = edited_rows(runs, len(by_line), CPU)
    assert places.tolist() == np.flatnonzero(by_line >= 0).tolist()
    assert slots.tolist() == by_line[by_line >= 0].tolist()


def test_one_run_alone_has_whatever_lines_there_are() -> None:
    check_shares((Run(3, 2),), 5)
    assert tile_table((Run(3, 2),), 5, 16).tolist() == [[0, 5, 3]]
    places, slots = edited_rows((Run(3, 2),), 5, CPU)
    assert places.tolist() == list(range(5))
    assert slots.tolist() == [3] * 5


def test_entries_that_can_not_be_shared_out_are_refused() -> None:
    with pytest.raises(ServerError, match="can not be told apart"):
        check_shares((Run(0, 1), Run(1, 1)), 5)
    check_shares((Run(0, 1), Run(1, 1)), 6)


def test_the_table_of_a_plan_is_made_once() -> None:
    runs = (Run(NO_SLOT, 4), Run(2, 4))
    first = device_tiles(runs, 8 * 17, 16, CPU)
    assert first.dtype == torch.int32
    assert device_tiles((Run(NO_SLOT, 4), Run(2, 4)), 8 * 17, 16, CPU) is first
    assert device_tiles(runs, 8 * 18, 16, CPU) is not first
