"""How good an adapter is: accuracy with its interval, precision, recall and F1, who is taken for whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensmount_adapters.backbones import Backbone
from lensmount_training.data import Pictures
from lensmount_training.features import batches
from lensmount_training.progress import Bar

RESAMPLES = 10_000
COVERAGE = 0.95


@dataclass(frozen=True)
class ClassScores:
    """One label: of what was called so, the share that was (precision); of what is so, the share found (recall)."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Figures of one part of the data; `confusion[truth][answer]` counts pictures.

    `low` to `high` is the 95 % interval of `accuracy`.
    """

    accuracy: float
    low: float
    high: float
    macro_f1: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def pictures(self) -> int:
        """How many pictures were judged."""
        return sum(map(sum, self.confusion))


@torch.no_grad()
def predict(forward: Callable[[Tensor], Tensor], backbone: Backbone, pictures: Pictures, bar: Bar) -> Tensor:
    """Logits float32 (n, labels) of whole pictures, nothing cached: the way a server answers."""
    parts: list[Tensor] = []
    for rows in batches(len(pictures)):
        batch = backbone.preprocessing.normalize(pictures.pixels[rows].to(backbone.device))
        parts.append(forward(batch).cpu())
        bar.advance(len(batch))
    return torch.cat(parts)


def score(logits: Tensor, targets: Tensor, labels: tuple[str, ...], seed: int = 0) -> Scores:
    """Figures for logits (n, labels) against targets (n,)."""
    flat = targets * len(labels) + logits.argmax(1)
    confusion = torch.bincount(flat, minlength=len(labels) ** 2).reshape(len(labels), -1).numpy()
    right, called, true = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    precision, recall, f1 = _share(right, called), _share(right, true), _share(2 * right, called + true)
    low, high = accuracy_interval(int(right.sum()), int(confusion.sum()), seed)
    return Scores(
        accuracy=float(right.sum() / confusion.sum()),
        low=low,
        high=high,
        macro_f1=float(f1.mean()),
        classes=tuple(
            ClassScores(label, float(precision[i]), float(recall[i]), float(f1[i]), int(true[i]))
            for i, label in enumerate(labels)
        ),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def accuracy_interval(right: int, count: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap (Efron 1979) of a share of `count` pictures.

    Resampling right and wrong answers with replacement is a binomial draw. A sample without
    any wrong (or any right) answer has only itself to draw from, which would claim certainty:
    there the exact binomial bound is given instead.
    """
    if right in (0, count):
        bound = ((1 - COVERAGE) / 2) ** (1 / count)
        return (bound, 1.0) if right else (0.0, 1 - bound)
    drawn = np.random.default_rng(seed).binomial(count, right / count, RESAMPLES) / count
    low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
