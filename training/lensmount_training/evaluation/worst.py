"""The pictures that an adapter is most wrong about, the surest mistakes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lensmount_training.data import Picture
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.scores import Bools


@dataclass(frozen=True)
class Worst:
    """One picture: its place in the part, its name, what it is and what it was called.

    `label` is what the mistake is about: the label that was called and is not there, else one that was missed;
    `probability` is its, `loss` the picture's negative log likelihood.
    """

    place: int
    file: str
    true: tuple[str, ...]
    called: tuple[str, ...]
    label: str
    probability: float
    loss: float
    right: bool


def worst(
    losses: Floats,
    called: Bools,
    true: Bools,
    probabilities: Floats,
    labels: Sequence[str],
    pictures: Sequence[Picture],
    count: int,
) -> tuple[Worst, ...]:
    """At most `count` pictures: wrong ones before right ones, the highest loss (n,) first; the others (n, labels)."""
    right = (called == true).all(1)
    order = np.lexsort((np.arange(len(losses)), -losses, right))[:count]

    def named(row: Bools) -> tuple[str, ...]:
        return tuple(label for label, is_there in zip(labels, row, strict=True) if is_there)

    found = []
    for place in order.tolist():
        about = _about(called[place], true[place], probabilities[place])
        found.append(
            Worst(
                place=place,
                file=pictures[place].file if pictures else str(place),
                true=named(true[place]),
                called=named(called[place]),
                label=labels[about],
                probability=float(probabilities[place, about]),
                loss=float(losses[place]),
                right=bool(right[place]),
            )
        )
    return tuple(found)


def _about(called: Bools, true: Bools, probabilities: Floats) -> int:
    """The label to look for reasons of: called wrongly, missed, or the most probable one."""
    for wrong in (called & ~true, true & ~called):
        if wrong.any():
            return int(np.where(wrong, probabilities, -1).argmax())
    return int(probabilities.argmax())
