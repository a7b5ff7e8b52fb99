"""Where an adapter is worse: dark or blurred pictures, one camera, pictures that stand alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensmount_training.data import Picture
from lensmount_training.evaluation.intervals import Interval, accuracy_interval
from lensmount_training.evaluation.scores import Bools

# Below it an interval is so wide that only disasters show.
FEW = 30
MOST_SOURCES = 20
THIRDS = {"brightness": ("dark", "middle", "bright"), "sharpness": ("blurred", "middle", "sharp")}


@dataclass(frozen=True)
class Slice:
    """Some of the pictures: by what they are chosen, and which they are.

    `interval` is the accuracy's of 95 %; `macro_recall` the mean over the labels that occur. `few`: fewer than 30
    pictures. `worse`: even the upper end of the interval is below the accuracy of all pictures.
    """

    by: str
    value: str
    pictures: int
    accuracy: float
    interval: Interval
    macro_recall: float
    few: bool
    worse: bool


def slices(called: Bools, true: Bools, pictures: Sequence[Picture], seed: int = 0) -> tuple[Slice, ...]:
    """Slices by brightness, sharpness, source and size of the group, where there is more than one value.

    `called` and `true` are (n, labels), rows in the order of `pictures`.
    """
    right = np.asarray((called == true).all(1))
    whole = float(right.mean())
    found: list[Slice] = []
    for by, values in _values(pictures):
        names = list(dict.fromkeys(values))
        if len(names) > 1:
            for name in names:
                own = np.array([value == name for value in values])
                found.append(_slice(by, name, called[own], true[own], whole, seed))
    return tuple(found)


def _slice(by: str, value: str, called: Bools, true: Bools, whole: float, seed: int) -> Slice:
    right = int((called == true).all(1).sum())
    interval = Interval(*accuracy_interval(right, len(true), seed))
    support = true.sum(0)
    recalls = (called & true).sum(0)[support > 0] / support[support > 0]
    return Slice(
        by=by,
        value=value,
        pictures=len(true),
        accuracy=right / len(true),
        interval=interval,
        macro_recall=float(recalls.mean()) if len(recalls) else 0.0,
        few=len(true) < FEW,
        worse=interval.high < whole,
    )


def _values(pictures: Sequence[Picture]) -> Iterator[tuple[str, list[str]]]:
    """For each way to slice, the value of every picture, which are told in the order in which they come first."""
    if not pictures:
        return
    yield "brightness", _thirds([picture.facts.brightness for picture in pictures], THIRDS["brightness"])
    yield "sharpness", _thirds([picture.facts.sharpness for picture in pictures], THIRDS["sharpness"])
    yield "source", _sources(pictures)
    yield "group", _groups(pictures)


def _thirds(values: Sequence[float], names: tuple[str, str, str]) -> list[str]:
    edges: NDArray[np.float64] = np.quantile(values, [1 / 3, 2 / 3])
    return [names[place] for place in np.searchsorted(edges, values, side="left")]


def _sources(pictures: Sequence[Picture]) -> list[str]:
    """Those with the most pictures by name, all others together."""
    largest = {source for source, _ in Counter(picture.source for picture in pictures).most_common(MOST_SOURCES)}
    names = {source: source or "not told" for source in largest}
    return [names.get(picture.source, "all others") for picture in pictures]


def _groups(pictures: Sequence[Picture]) -> list[str]:
    sizes = Counter(picture.group for picture in pictures)
    return [_size(sizes[picture.group]) if picture.group else "alone" for picture in pictures]


def _size(pictures: int) -> str:
    return "alone" if pictures == 1 else "2 to 5 together" if pictures <= 5 else "more than 5 together"
