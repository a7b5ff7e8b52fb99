"""Both sides in turns, and what each of them found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lensmount_adapters.timing import turns
from lensmount_server.bench.wire.load import Finding
from lensmount_server.engine.settings import EngineSettings

Run = Callable[[], Finding]
OURS, OTHER, ANSWERING = "ours", "other", "answering"


@dataclass(frozen=True)
class Setting:
    """What computes, the backbone of real tasks, rounds, and requests of one round with sixteen in flight.

    `tell` is told what runs, and how many of its rounds are done.
    """

    engine: EngineSettings
    backbone: str
    rounds: int
    requests: int
    tell: Callable[[str, int], None]


def in_turns(sides: Mapping[str, Run], rounds: int, tell: Callable[[int], None]) -> dict[str, list[Finding]]:
    """Every side once a round, after one that does not count; `tell` is told how many rounds are done."""
    for run in sides.values():
        run()
    found: dict[str, list[Finding]] = {name: [] for name in sides}
    for number, made in enumerate(turns(sides, rounds), 1):
        for name, finding in made.items():
            found[name].append(finding)
        tell(number)
    return found


def repeated(run: Callable[[], object], times: int, each: int = 1) -> Run:
    """So many runs as one finding; each of them answers so many requests."""

    def measured() -> Finding:
        found = Finding()
        begin = time.perf_counter()
        for _ in range(times):
            start = time.perf_counter()
            run()
            found.latencies_ms += [(time.perf_counter() - start) * 1e3] * each
        found.seconds = time.perf_counter() - begin
        return found

    return measured
