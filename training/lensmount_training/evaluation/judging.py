"""Everything that is told of one part of the data, and the numbers of it that go into `task.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.outcome import calibrated
from lensmount_training.data import Picture
from lensmount_training.data.listing import Kind
from lensmount_training.evaluation.calibration import Calibration, nll
from lensmount_training.evaluation.curves import Curve, Reliability, curves, reliability
from lensmount_training.evaluation.scores import NEUTRAL, Scores, decisions, score_decisions, truths
from lensmount_training.evaluation.slices import Slice, slices
from lensmount_training.evaluation.worst import Worst, worst

WORST = 24


@dataclass(frozen=True)
class Requirement:
    """What a metric is, and the least that it must be; `value` is None where it was not measured."""

    metric: str
    least: float
    value: float | None

    @property
    def holds(self) -> bool:
        """Whether it is reached; what was not measured is not."""
        return self.value is not None and self.value >= self.least


@dataclass(frozen=True)
class Evaluation:
    """An adapter on one part of the data, by the decisions that a server takes."""

    labels: tuple[str, ...]
    kind: Kind
    calibration: Calibration
    scores: Scores
    curves: tuple[Curve, ...]
    reliability: Reliability
    slices: tuple[Slice, ...]
    worst: tuple[Worst, ...]

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """What the calibration promises, held against the figures."""
        figures = metrics(self)
        asked = self.calibration.requirements
        return tuple(Requirement(metric, least, figures.get(metric)) for metric, least in asked.items())

    @property
    def holds(self) -> bool:
        """Whether every requirement does."""
        return all(requirement.holds for requirement in self.requirements)


def evaluate(
    logits: Tensor,
    targets: Tensor,
    labels: Sequence[str],
    kind: Kind = "single_label",
    calibration: Calibration = NEUTRAL,
    pictures: Sequence[Picture] = (),
    seed: int = 0,
) -> Evaluation:
    """Judge logits (n, labels) against targets: int64 (n,), or zeros and ones (n, labels) for multi-label.

    `pictures`, in the order of the rows, bring names and slices. Raises InvalidInputError when there are no rows.
    """
    if not len(logits):
        message, fix = "no picture to judge by", "choose another part, or add pictures"
        raise InvalidInputError(message, field="data", value=0, fix=fix)
    called, true = decisions(logits, kind, calibration), truths(targets, len(labels))
    losses = nll(logits, targets, kind, calibration.temperature).numpy()
    probabilities = calibrated(kind, calibration.temperature, logits).numpy().astype(np.float64)
    return Evaluation(
        labels=tuple(labels),
        kind=kind,
        calibration=calibration,
        scores=score_decisions(called, true, labels, kind, seed),
        curves=curves(probabilities, true, labels),
        reliability=reliability(probabilities, true, kind),
        slices=slices(called, true, pictures, seed),
        worst=worst(losses, called, true, probabilities, labels, pictures, WORST),
    )


def metrics(evaluation: Evaluation) -> Mapping[str, float]:
    """Numbers by name, for `task.json`; recalls of labels that no picture has are left out."""
    scores = evaluation.scores
    found = {
        "accuracy": scores.accuracy,
        "accuracy_low": scores.low,
        "accuracy_high": scores.high,
        "macro_f1": scores.macro_f1,
        "macro_f1_low": scores.macro_f1_interval.low,
        "macro_f1_high": scores.macro_f1_interval.high,
        "weighted_f1": scores.weighted.f1,
        "ece": evaluation.reliability.ece,
        "brier": evaluation.reliability.brier,
        "pictures": float(scores.pictures),
    }
    for own in scores.classes:
        if own.support:
            found[f"recall.{own.label}"] = own.recall
            found[f"precision.{own.label}"] = own.precision
            found[f"f1.{own.label}"] = own.f1
    return found


def part_metrics(part: str, evaluation: Evaluation) -> Mapping[str, float]:
    """The same numbers named after the part: `test_accuracy`, `validation_recall.crack`."""
    return {f"{part}_{name}": value for name, value in metrics(evaluation).items()}
