"""What the probabilities are worth at every threshold, and whether they are what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lensmount_training.data.listing import Kind
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.scores import Bools

BINS = 15
DRAWS = 2_000

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """One label against the rest.

    `roc` are (false positive rate, true positive rate), `pr` (recall, precision); `roc_auc` and `average_precision`
    are the areas under them.
    """

    label: str
    roc: Points
    roc_auc: float
    pr: Points
    average_precision: float


@dataclass(frozen=True)
class Bin:
    """Pictures of about the same confidence: its mean, the share that is right, and how many."""

    confidence: float
    accuracy: float
    pictures: int


@dataclass(frozen=True)
class Reliability:
    """Whether a probability of 0.9 is right in nine of ten cases.

    `ece` is the mean difference between confidence and accuracy over bins that hold as many pictures each (Guo et
    al., ICML 2017; equal mass: Nixon et al., arXiv 1904.01685). Single-label: of the most probable label; multi-label:
    of every probability of every label. `brier` (Brier 1950): the squared difference between probabilities and truth,
    summed over the labels for single-label (0 to 2), their mean for multi-label (0 to 1).

    Bins of few pictures are off by luck too: an adapter whose probabilities are perfectly right stays below
    `ece_by_chance` in 19 of 20 data sets of this size (consistency resampling: Bröcker and Smith, Weather and
    Forecasting 2007).
    """

    ece: float
    ece_by_chance: float
    brier: float
    bins: tuple[Bin, ...]


def curves(probabilities: Floats, true: Bools, labels: Sequence[str]) -> tuple[Curve, ...]:
    """Of each label that some pictures have and some have not; both arrays are (n, labels)."""
    return tuple(
        _curve(probabilities[:, i], true[:, i], label)
        for i, label in enumerate(labels)
        if 0 < int(true[:, i].sum()) < len(true)
    )


def reliability(probabilities: Floats, true: Bools, kind: Kind) -> Reliability:
    """Of probabilities (n, labels) against the truth (n, labels)."""
    squares = (probabilities - true) ** 2
    if kind == "multi_label":
        confidence, right = probabilities.ravel(), true.ravel()
        brier = float(np.sort(squares.mean(1)).mean())
    else:
        best = probabilities.argmax(1)
        rows = np.arange(len(best))
        confidence, right = probabilities[rows, best], true[rows, best]
        brier = float(np.sort(squares.sum(1)).mean())
    bins = _bins(confidence, right)
    apart = sum(own.pictures * abs(own.confidence - own.accuracy) for own in bins)
    return Reliability(apart / len(right), _by_chance(np.sort(confidence)), brier, bins)


def _curve(scores: Floats, true: Bools, label: str) -> Curve:
    false_rate, true_rate, _ = roc_curve(true, scores)
    precision, recall, _ = precision_recall_curve(true, scores, drop_intermediate=True)
    return Curve(
        label=label,
        roc=_points(false_rate, true_rate),
        roc_auc=float(roc_auc_score(true, scores)),
        pr=_points(recall[::-1], precision[::-1]),
        average_precision=float(average_precision_score(true, scores)),
    )


def _points(x: Floats, y: Floats) -> Points:
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


def _by_chance(confidence: Floats) -> float:
    """What ECE stays below in 95 % of draws when every answer is right with its own probability.

    How many of a bin are right is close to normal; its mean is what was said, and only its spread matters.
    """
    parts = np.array_split(confidence, min(BINS, len(confidence)))
    spread = np.array([np.sqrt((own * (1 - own)).sum()) for own in parts])
    drawn = np.abs(np.random.default_rng(0).standard_normal((DRAWS, len(parts)))) @ spread / len(confidence)
    return float(np.quantile(drawn, 0.95))


def _bins(confidence: Floats, right: Bools) -> tuple[Bin, ...]:
    """`BINS` of as many pictures each; of equal confidence wrong ones first, so that no order of pictures matters."""
    order = np.lexsort((right, confidence))
    parts = np.array_split(order, min(BINS, len(order)))
    return tuple(Bin(float(confidence[own].mean()), float(right[own].mean()), len(own)) for own in parts)
