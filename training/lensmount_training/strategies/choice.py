"""The cheapest of what is good enough: the one standard error rule (Breiman et al., 1984)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """What it costs, how accurate it was, and the standard error of that."""

    cost: float
    accuracy: float
    error: float


def cheapest_good(options: Sequence[Option]) -> int:
    """The place of the cheapest option that is within one standard error (the best one's) of the best.

    Of equally accurate ones the first is the best; of equally cheap ones the more accurate is taken.
    """
    best = max(options, key=lambda own: own.accuracy)
    good = [place for place, own in enumerate(options) if own.accuracy >= best.accuracy - best.error]
    return min(good, key=lambda place: (options[place].cost, -options[place].accuracy))
