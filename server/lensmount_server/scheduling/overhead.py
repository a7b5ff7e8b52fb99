"""What scheduling itself costs: the time of the pure logic, without an engine and without an event loop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lensmount_server.scheduling.costs import LearnedCosts
from lensmount_server.scheduling.queue import MAX_BATCH, Queue
from lensmount_server.scheduling.tickets import Ticket

_BATCH_S = 0.04


@dataclass(frozen=True)
class Overhead:
    """Microseconds of scheduling a frame and a row, from the admission to the end of the batch."""

    sources: int
    rows_per_frame: int
    frames: int
    us_per_frame: float
    us_per_row: float


def measure_overhead(sources: int = 16, rows_per_frame: int = 1, frames: int = 50_000) -> Overhead:
    """Run so many frames of so many sources through a queue whose engine takes no time; all have deadlines.

    Every source always has one frame waiting, the engine's time is only counted.
    """
    costs = LearnedCosts()
    queue = Queue(costs)
    now_s, sent = 0.0, 0
    start = time.perf_counter()
    while sent < frames:
        for source in range(max(MAX_BATCH, sources) - len(queue)):
            queue.admit(Ticket(f"source-{(sent + source) % sources}", rows_per_frame, 0, now_s + 60.0, now_s), now_s)
        batch = queue.take(now_s)
        now_s += _BATCH_S
        queue.finish(batch, now_s)
        costs.observe(len(batch.tickets), rows_per_frame * len(batch.tickets), _BATCH_S)
        sent += len(batch.tickets)
    us = (time.perf_counter() - start) * 1e6 / sent
    return Overhead(sources, rows_per_frame, sent, us, us / rows_per_frame)
