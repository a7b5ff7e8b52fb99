"""How many pictures each class has, and what training makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_training.data.dataset import Dataset, Pictures, targets_of
from lensmount_training.strategies.strategy import Problem

# Below it a class's figures in a test set of a fifth say next to nothing: 4 pictures.
MINIMUM = 20
LARGEST_RATIO = 5.0


@dataclass(frozen=True)
class ClassCount:
    """One class: its pictures, and what one of them weighs in training (`Problem.class_weights`)."""

    label: str
    pictures: int
    weight: float


@dataclass(frozen=True)
class Balance:
    """All classes in the order of the labels; `ratio` is that of the largest to the smallest."""

    classes: tuple[ClassCount, ...]
    ratio: float

    @property
    def small(self) -> tuple[ClassCount, ...]:
        """Classes under the minimum."""
        return tuple(own for own in self.classes if own.pictures < MINIMUM)

    @property
    def uneven(self) -> bool:
        """Whether the largest class has more than five times the pictures of the smallest."""
        return self.ratio > LARGEST_RATIO


def class_balance(dataset: Dataset, backbone: Backbone) -> Balance:
    """Counts and weights; a picture with several labels counts for each."""
    counts = Counter(label for picture in dataset.pictures for label in picture.labels)
    everything = Pictures(
        dataset.rows,
        targets_of(dataset.pictures, dataset.kind, len(dataset.labels)),
        tuple(picture.digest for picture in dataset.pictures),
    )
    problem = Problem(backbone, dataset.labels, everything, everything, 0, dataset.kind)
    weights = _weights(problem.class_weights)
    classes = tuple(
        ClassCount(label, counts[place], weight)
        for place, (label, weight) in enumerate(zip(dataset.labels, weights, strict=True))
    )
    return Balance(classes, max(counts.values()) / min(counts.values()))


def _weights(weights: torch.Tensor) -> Sequence[float]:
    return [round(weight, 4) for weight in weights.tolist()]
