"""Side by side on the cores: works are cut into chunks and dealt out to lanes, one core each.

Two threads inside one small operator wait for each other more than they help: on the machines
that were measured, two halves of a batch on a core each took two thirds of the time that both
cores took on the whole (docs/performance.md). Chunks are dealt longest first to the lane that
has the least (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensmount_server.engine.cpu.units import Unit, Work, chunks


@dataclass(frozen=True)
class _Chunk:
    unit: Unit
    x: Tensor
    out: Tensor
    load: float


class Lanes:
    """Runs works on `count` cores; the calling thread is one of them. For one caller at a time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(max(count - 1, 1), thread_name_prefix="lane")

    def run(self, works: Sequence[Work]) -> list[Tensor]:
        """The outputs, float32, one tensor for each work with its rows in their order.

        Raises what the first unit that fails raises, when all lanes are done.
        """
        # As numpy's: torch gives Python's lock away for it, and a busy event loop keeps that for a while.
        outs = [torch.from_numpy(np.empty((len(work.x), *work.unit.row_shape), np.float32)) for work in works]
        if not works:
            return outs
        if len(works) == 1 and len(works[0].x) == 1 and works[0].unit.run_wide(works[0].x, outs[0]):
            return outs
        first, *others = deal(_cut(works, outs, self.count), self.count)
        running = [self._pool.submit(_run, lane) for lane in others if lane]
        try:
            _run(first)
        finally:
            errors = [future.exception() for future in running]
        for error in filter(None, errors):
            raise error
        return outs

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def deal(items: Sequence[_Chunk], lanes: int) -> list[list[_Chunk]]:
    """Longest first, each to the lane that has the least."""
    dealt: list[list[_Chunk]] = [[] for _ in range(lanes)]
    loads = [0.0] * lanes
    for item in sorted(items, key=lambda item: -item.load):
        lane = loads.index(min(loads))
        dealt[lane].append(item)
        loads[lane] += item.load
    return dealt


def _cut(works: Sequence[Work], outs: Sequence[Tensor], lanes: int) -> list[_Chunk]:
    limit = math.ceil(sum(len(work.x) for work in works) / lanes)
    cut = []
    for work, out in zip(works, outs, strict=True):
        sizes = chunks(len(work.x), work.unit.buckets, limit)
        for x, part in zip(_parts(work.x, sizes), _parts(out, sizes), strict=True):
            cut.append(_Chunk(work.unit, x, part, len(x) * work.weight))
    return cut


def _parts(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return [x] if len(sizes) == 1 else torch.split(x, sizes)


def _run(lane: Sequence[_Chunk]) -> None:
    for chunk in lane:
        chunk.unit.run(chunk.x, chunk.out)
