"""Which lines of a matrix belong to which slot: runs of rows, cut into tiles that never cross from slot to slot.

The rows of a pass lie sorted by adapter, so the lines of one slot are one *run*. Tiles begin
where runs begin: a tile has one slot, the kernel loads one A and one B, and nothing is masked by
slot. Punica's SGMV (arXiv 2310.18547) segments its batch in the same way. The alternatives cost
more here: tiles aligned to rows waste most of a tile where a row is a few tokens (S-LoRA,
arXiv 2311.03285, gathers per token for that reason, as decoding has one token a row), and tiles
that may straddle slots must compute every slot in them and mask. The price of this choice is at
most one partly filled tile for each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lensmount.errors import ServerError

NO_SLOT = -1
# A steady stream repeats a few plans; each costs a table of some hundred bytes for every module shape.
KEPT = 1024


@dataclass(frozen=True)
class Run:
    """`rows` neighbouring rows of one slot; slot -1 is a row without an edit."""

    slot: int
    rows: int


Runs = tuple[Run, ...]


def runs_of(pieces: Iterable[Run]) -> Runs:
    """Join neighbours of the same slot."""
    return tuple(Run(slot, sum(run.rows for run in same)) for slot, same in groupby(pieces, key=lambda run: run.slot))


def check_shares(runs: Runs, entries: int) -> None:
    """Raise ServerError unless the `entries` in dimension 0 are equal shares of the rows.

    One run alone has all entries, whatever they are: nothing needs to be told apart.
    """
    rows = sum(run.rows for run in runs)
    if len(runs) > 1 and entries % rows:
        message = "rows can not be told apart in this module"
        raise ServerError(message, field="rows", value=f"{entries} entries for {rows} rows")


def tile_table(runs: Runs, lines: int, block: int) -> npt.NDArray[np.int32]:
    """(tiles, 3): first line, line behind the last, slot; `lines` of them in all, at most `block` in a tile."""
    slots = np.array([run.slot for run in runs])
    stops = _stops(runs, lines)
    starts = np.concatenate([[0], stops[:-1]])
    counts = -(-(stops - starts) // block)
    run = np.repeat(np.arange(len(runs)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[run] + within * block
    return np.stack([first, np.minimum(first + block, stops[run]), slots[run]], axis=1).astype(np.int32)


@lru_cache(maxsize=KEPT)
def device_tiles(runs: Runs, lines: int, block: int, device: torch.device) -> Tensor:
    """`tile_table` as an int32 tensor on the device; made once for each plan."""
    return torch.from_numpy(tile_table(runs, lines, block)).to(device)


@lru_cache(maxsize=KEPT)
def edited_rows(runs: Runs, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Entries of dimension 0 (`length` of them) that have a slot, and their slots: two int64 vectors."""
    starts = np.concatenate([[0], _stops(runs, length)])
    slots = np.repeat([run.slot for run in runs], np.diff(starts))
    places = np.flatnonzero(slots != NO_SLOT)
    return torch.from_numpy(places).to(device), torch.from_numpy(slots[places]).to(device)


def _stops(runs: Runs, length: int) -> npt.NDArray[np.int64]:
    """Where each run ends."""
    ends = np.cumsum([run.rows for run in runs])
    stops: npt.NDArray[np.int64] = ends * length // ends[-1]
    return stops
