"""How sure a figure is: 95 % percentile bootstrap over pictures (Efron, Annals of Statistics 1979).

Pictures that are alike in all that a figure looks at are drawn together: resampling n pictures with replacement is a
multinomial draw of how often each kind of picture comes, so 2,000 resamples of any number of pictures cost little, and
the order of the pictures does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
# Of figures that are computed from all kinds of pictures in every resample.
FIGURE_RESAMPLES = 2_000
COVERAGE = 0.95

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`; 95 % unless it is said otherwise."""

    low: float
    high: float

    def holding(self, value: float) -> Interval:
        """Widened where it does not hold the figure itself, as percentiles of a skewed figure may not."""
        return Interval(min(self.low, value), max(self.high, value))


def accuracy_interval(right: int, count: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of a share of `count` pictures; (0, 1), which says nothing, of none.

    Resampling right and wrong answers with replacement is a binomial draw. A sample without
    any wrong (or any right) answer has only itself to draw from, which would claim certainty:
    there the exact binomial bound is given instead.
    """
    if count == 0:
        return 0.0, 1.0
    if right in (0, count):
        bound = ((1 - COVERAGE) / 2) ** (1 / count)
        return (bound, 1.0) if right else (0.0, 1 - bound)
    drawn = np.random.default_rng(seed).binomial(count, right / count, RESAMPLES) / count
    found = percentiles(drawn)
    return found.low, found.high


def resampled(kinds: Ints, seed: int, resamples: int = FIGURE_RESAMPLES) -> tuple[Ints, Ints]:
    """Distinct rows of `kinds` (pictures, what a figure looks at), and how often each comes in each resample.

    Shapes (k, columns) and (resamples, k).
    """
    rows, counts = np.unique(kinds, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(kinds), counts / len(kinds), resamples)
    return rows, drawn


def percentiles(figures: Floats) -> Interval:
    """The middle 95 % of a figure's resamples; those that are NaN are left out."""
    low, high = np.nanquantile(figures, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))
