"""What an evaluation comes to, in sentences that need no statistics to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lensmount_training.evaluation.comparing import Comparison
from lensmount_training.evaluation.judging import Evaluation
from lensmount_training.evaluation.slices import FEW

Tone = Literal["good", "fair", "bad"]
# A mean difference between what probabilities say and what is right; more than this misleads who reads them.
MISLEADING = 0.1


@dataclass(frozen=True)
class Verdict:
    """One line, and what is to be known beside it."""

    headline: str
    tone: Tone
    sentences: tuple[str, ...]


def verdict(evaluation: Evaluation, comparison: Comparison | None = None) -> Verdict:
    """Words for an evaluation, and a comparison with another adapter where there is one."""
    missed = [own for own in evaluation.requirements if not own.holds]
    headline, tone = _headline(len(missed), evaluation)
    sentences = [_accuracy(evaluation)]
    sentences += [
        f"{own.metric} must be at least {own.least:g}"
        + (f" and is {own.value:.3f}." if own.value is not None else " and was not measured here: no picture shows it.")
        for own in missed
    ]
    sentences += [*_weakest(evaluation), *_confused(evaluation), *_sure(evaluation), *_slices(evaluation)]
    sentences += [comparison.words] if comparison else []
    return Verdict(headline, tone, tuple(sentences))


def _headline(missed: int, evaluation: Evaluation) -> tuple[str, Tone]:
    if missed:
        return f"{_count(missed, 'requirement')} not reached", "bad"
    if evaluation.requirements:
        return "Every requirement is reached", "good"
    return f"Right in {evaluation.scores.accuracy:.0%} of the pictures; no recall was required", "fair"


def _accuracy(evaluation: Evaluation) -> str:
    scores = evaluation.scores
    right = round(scores.accuracy * scores.pictures)
    how = "in every label" if evaluation.kind == "multi_label" else ""
    text = (
        f"{right} of {scores.pictures} pictures are judged rightly{' ' if how else ''}{how}: {scores.accuracy:.1%}. "
        f"On other pictures of the same kind expect {scores.low:.1%} to {scores.high:.1%}."
    )
    few = f" {scores.pictures} pictures are few: the figures are rough." if scores.pictures < 5 * FEW else ""
    return text + few


def _weakest(evaluation: Evaluation) -> list[str]:
    shown = [own for own in evaluation.scores.classes if own.support]
    if len(shown) < 2:
        return []
    own = min(shown, key=lambda each: each.recall)
    found = round(own.recall * own.support)
    if found == own.support:
        return ["Of every label all pictures are found."]
    return [f"{own.label} is missed most often: {found} of {own.support} are found."]


def _confused(evaluation: Evaluation) -> list[str]:
    wrong = [
        (count, evaluation.labels[true], evaluation.labels[called])
        for true, row in enumerate(evaluation.scores.confusion)
        for called, count in enumerate(row)
        if true != called and count
    ]
    if not wrong:
        return []
    count, true, called = max(wrong)
    return [f"The most common mistake: {true} is taken for {called}, {_count(count, 'picture')}."]


def _sure(evaluation: Evaluation) -> list[str]:
    own = evaluation.reliability
    if own.ece <= own.ece_by_chance:
        chance = f"up to {own.ece_by_chance:.1%} may be chance"
        return [f"Nothing shows that its probabilities are wrong: they are {own.ece:.1%} off on average, and {chance}."]
    if own.ece <= MISLEADING:
        return [f"Its probabilities can be read as they are: on average they are {own.ece:.1%} off."]
    said = sum(each.confidence * each.pictures for each in own.bins) / sum(each.pictures for each in own.bins)
    right = sum(each.accuracy * each.pictures for each in own.bins) / sum(each.pictures for each in own.bins)
    way = "surer than it should be" if said > right else "better than it says"
    return [f"Its probabilities mislead, {own.ece:.1%} on average: it is {way}."]


def _slices(evaluation: Evaluation) -> list[str]:
    return [
        f"It is worse where {own.by} is {own.value}: {own.accuracy:.1%} of {_count(own.pictures, 'picture')}."
        for own in evaluation.slices
        if own.worse and not own.few
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
