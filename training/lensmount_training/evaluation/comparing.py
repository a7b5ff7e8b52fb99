"""Two adapters on the same pictures: and whether the better one was only lucky.

McNemar's exact test (Psychometrika 1947) looks at the pictures that only one of the two gets right: if neither were
better, each of them would be a coin toss. The intervals are a paired bootstrap: both are judged on the same resample,
so what makes a picture hard for both cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lensmount_training.evaluation.intervals import Floats, Interval, Ints, percentiles, resampled
from lensmount_training.evaluation.scores import Bools, macro_f1

DOUBT = 0.05


@dataclass(frozen=True)
class Difference:
    """Second minus first, and its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """`only_first` and `only_second` are pictures that only one of the two gets right; `p` is McNemar's, two-sided."""

    first: str
    second: str
    pictures: int
    only_first: int
    only_second: int
    p: float
    accuracy: Difference
    macro_f1: Difference

    @property
    def words(self) -> str:
        """What came of it, for people."""
        apart = self.only_first + self.only_second
        counts = (
            f"Of {self.pictures} pictures {self.only_first} are right with {self.first} alone "
            f"and {self.only_second} with {self.second} alone"
        )
        if not apart:
            return f"{self.first} and {self.second} are right and wrong on the same {self.pictures} pictures."
        if self.p >= DOUBT:
            return f"{counts}: that may be luck (p = {self.p:.2g}). No difference is shown."
        better = self.second if self.only_second > self.only_first else self.first
        return f"{counts}: {better} is better, which is hardly luck (p = {self.p:.2g})."


def compare(
    first: str, second: str, called_first: Bools, called_second: Bools, true: Bools, seed: int = 0
) -> Comparison:
    """Hold the decisions (n, labels) of two adapters against the truth (n, labels) and each other."""
    right_first, right_second = ((called == true).all(1) for called in (called_first, called_second))
    only_first, only_second = int((right_first & ~right_second).sum()), int((right_second & ~right_first).sum())
    labels = true.shape[1]
    kinds = np.hstack([true, called_first, called_second]).astype(np.int64)
    rows, drawn = resampled(kinds, seed)
    own_true, own_first, own_second = rows[:, :labels], rows[:, labels : 2 * labels], rows[:, 2 * labels :]
    shares = [drawn @ (called == own_true).all(1) / len(true) for called in (own_first, own_second)]
    everything = np.ones((1, len(kinds)), np.int64)
    f1 = [_f1(drawn, called, own_true) for called in (own_first, own_second)]
    plain = [float(_f1(everything, called, true)[0]) for called in (called_first, called_second)]
    return Comparison(
        first=first,
        second=second,
        pictures=len(true),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        accuracy=Difference((only_second - only_first) / len(true), percentiles(shares[1] - shares[0])),
        macro_f1=Difference(plain[1] - plain[0], percentiles(f1[1] - f1[0])),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p: how often so uneven a count comes from tossing a coin for each picture."""
    count, fewer = only_first + only_second, min(only_first, only_second)
    # Whole numbers until the last step: exact for any count.
    ways = total = 1
    for k in range(fewer):
        ways = ways * (count - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / (1 << count))


def _f1(drawn: Ints, called: Bools | Ints, true: Bools | Ints) -> Floats:
    called, true = called.astype(np.int64), true.astype(np.int64)
    return macro_f1(drawn @ (called * true), drawn @ called, drawn @ true)
