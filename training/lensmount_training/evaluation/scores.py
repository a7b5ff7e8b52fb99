"""Accuracy with its interval, precision, recall and F1, who is taken for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lensmount_adapters.outcome import calibrated, decide_rows
from lensmount_training.data.listing import Kind
from lensmount_training.evaluation.calibration import Calibration
from lensmount_training.evaluation.intervals import (
    Floats,
    Interval,
    Ints,
    accuracy_interval,
    percentiles,
    resampled,
)

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassScores:
    """One label: of what was called so, the share that was (precision); of what is so, the share found (recall).

    `counts` are pictures: true and called so, called so only, true only, neither. `recall_interval` is of 95 %, over
    all there is where `support` is 0.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    recall_interval: Interval
    counts: tuple[int, int, int, int]


@dataclass(frozen=True)
class Average:
    """Of all labels."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """Figures of one part of the data, `pictures` in all; `confusion[truth][answer]` counts pictures.

    `accuracy` is the share of pictures whose decision is right, for multi-label in every label (exact match).
    `low` to `high` is its 95 % interval, `macro_f1_interval` that of `macro_f1`. `macro` counts every label alike,
    `weighted` by its support. There is no confusion of multi-label tasks: each label has its own `counts`.
    """

    accuracy: float
    low: float
    high: float
    macro_f1: float
    macro_f1_interval: Interval
    macro: Average
    weighted: Average
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    pictures: int


NEUTRAL = Calibration()


def decisions(logits: Tensor, kind: Kind, calibration: Calibration = NEUTRAL) -> Bools:
    """What a server decides for logits (n, labels): bool (n, labels)."""
    rows: Bools = decide_rows(kind, calibration.thresholds, calibrated(kind, calibration.temperature, logits)).numpy()
    return rows


def truths(targets: Tensor, labels: int) -> Bools:
    """Targets, int64 (n,) or zeros and ones (n, labels), as bool (n, labels)."""
    if targets.ndim == 2:
        return np.asarray(targets.numpy() > 0)
    return np.asarray(targets.numpy()[:, None] == np.arange(labels))


def score(
    logits: Tensor,
    targets: Tensor,
    labels: Sequence[str],
    seed: int = 0,
    kind: Kind = "single_label",
    calibration: Calibration = NEUTRAL,
) -> Scores:
    """Figures for logits (n, labels) of one picture or more.

    Targets are int64 (n,), or zeros and ones (n, labels) for multi-label.
    """
    return score_decisions(decisions(logits, kind, calibration), truths(targets, len(labels)), labels, kind, seed)


def score_decisions(called: Bools, true: Bools, labels: Sequence[str], kind: Kind, seed: int = 0) -> Scores:
    """Figures for decisions (n, labels) against the truth (n, labels)."""
    count = len(true)
    hits, calls, support = (np.asarray(own.sum(0), np.int64) for own in (called & true, called, true))
    precision, recall, f1 = _share(hits, calls), _share(hits, support), _share(2 * hits, calls + support)
    right = int((called == true).all(1).sum())
    low, high = accuracy_interval(right, count, seed)
    recalls, of_f1 = _intervals(called, true, f1, seed)
    weights = support / max(int(support.sum()), 1)
    return Scores(
        accuracy=right / count,
        low=low,
        high=high,
        macro_f1=float(f1.mean()),
        macro_f1_interval=of_f1,
        macro=Average(*(float(own.mean()) for own in (precision, recall, f1))),
        weighted=Average(*(float(own @ weights) for own in (precision, recall, f1))),
        classes=tuple(
            ClassScores(
                label=label,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                support=int(support[i]),
                recall_interval=recalls[i],
                counts=_counts(int(hits[i]), int(calls[i]), int(support[i]), count),
            )
            for i, label in enumerate(labels)
        ),
        confusion=_confusion(called, true) if kind == "single_label" else (),
        pictures=count,
    )


def macro_f1(hits: Ints, calls: Ints, support: Ints) -> Floats:
    """Macro F1 of every resample, from (resamples, labels) each; a label that a resample does not show is left out.

    NaN where a resample shows none, as one of multi-label pictures may.
    """
    seen = calls + support
    f1 = 2 * hits / np.maximum(seen, 1)
    # A label that is nowhere in the data counts as 0, as it does in the figure itself.
    counted = ((seen > 0) | (seen == 0).all(0)).sum(1)
    means: Floats = np.where(counted > 0, f1.sum(1) / np.maximum(counted, 1), np.nan)
    return means


def _intervals(called: Bools, true: Bools, f1: Floats, seed: int) -> tuple[tuple[Interval, ...], Interval]:
    """Of every label's recall, and of macro F1."""
    labels = true.shape[1]
    rows, drawn = resampled(np.hstack([called, true]).astype(np.int64), seed)
    own_called, own_true = rows[:, :labels], rows[:, labels:]
    hits, calls, support = (drawn @ own for own in (own_called * own_true, own_called, own_true))
    recalls = tuple(
        _recall_interval(hits[:, i], support[:, i], int((called & true)[:, i].sum()), int(true[:, i].sum()))
        for i in range(labels)
    )
    found = macro_f1(hits, calls, support)
    if np.nanmax(found) > np.nanmin(found):
        return recalls, percentiles(found).holding(float(f1.mean()))
    # No resample differs, which is no certainty: the exact bounds of the labels stand in.
    ends = np.mean([[own.low, own.high] for own in recalls], 0)
    return recalls, Interval(float(ends[0]), float(ends[1])).holding(float(f1.mean()))


def _recall_interval(hits: Ints, support: Ints, found: int, true: int) -> Interval:
    if found in (0, true):
        return Interval(*accuracy_interval(found, true))
    return percentiles(np.where(support > 0, hits / np.maximum(support, 1), np.nan)).holding(found / true)


def _confusion(called: Bools, true: Bools) -> tuple[tuple[int, ...], ...]:
    counts = true.astype(np.int64).T @ called.astype(np.int64)
    return tuple(tuple(int(count) for count in row) for row in counts)


def _counts(hits: int, calls: int, support: int, count: int) -> tuple[int, int, int, int]:
    return hits, calls - hits, support - hits, count - calls - support + hits


def _share(part: Ints, whole: Ints) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
