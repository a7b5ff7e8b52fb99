"""Timing that holds on a noisy machine: all sides in turns, ratios round by round, medians with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from typing import TypeVar

T = TypeVar("T")
Timed = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, with the first and third quartile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Rounds:
    """Milliseconds of every side in every round; round i of one side ran right beside round i of the others."""

    ms: Mapping[str, list[float]]

    def of(self, side: str) -> Spread:
        """Milliseconds of one side."""
        return spread(self.ms[side])

    def ratio(self, side: str, to: str) -> Spread:
        """One side's time through another's, round by round."""
        return spread([a / b for a, b in zip(self.ms[side], self.ms[to], strict=True)])


def in_turns(
    sides: Mapping[str, Timed],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    *,
    warm_up: bool = True,
) -> Iterator[Rounds]:
    """Run every side once a round, after one round that does not count; gives what was measured after each round.

    The clock gives seconds.
    Without `warm_up` all rounds count: for sides that take so long that what a first run costs does not show.
    """
    for run in sides.values() if warm_up else ():
        run()
    ms: dict[str, list[float]] = {name: [] for name in sides}
    for spent in turns({name: partial(_ms, run, clock) for name, run in sides.items()}, rounds):
        for name, each in spent.items():
            ms[name].append(each)
        yield Rounds(ms)


def turns(sides: Mapping[str, Callable[[], T]], rounds: int) -> Iterator[Mapping[str, T]]:
    """What every side gives, round after round: A B, B A, so that nobody always runs behind the same neighbour."""
    for number in range(rounds):
        order = list(sides)[:: 1 if number % 2 == 0 else -1]
        yield {name: sides[name]() for name in order}


def _ms(run: Timed, clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return (clock() - start) * 1e3


def spread(values: list[float]) -> Spread:
    """Of these values, at least one."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)
