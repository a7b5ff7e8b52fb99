"""Figures equal scikit-learn's; the interval covers and never claims certainty."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)
from torch.nn import functional as F

from factories import manifest, random_backbone
from lensmount_adapters.outcome import decide, probabilities
from lensmount_training.data.listing import Kind
from lensmount_training.evaluation import Calibration, accuracy_interval, score
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.scores import decisions

BACKBONE = random_backbone()
LABELS = ("hole", "ok", "stain")
answers = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@given(answers)
def test_figures_equal_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, answer = (torch.tensor(column) for column in zip(*pairs, strict=True))
    scores = score(F.one_hot(answer, 3).float(), truth, LABELS)
    precision, recall, f1, support = precision_recall_fscore_support(truth, answer, labels=[0, 1, 2], zero_division=0)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, answer))
    assert scores.confusion == tuple(map(tuple, confusion_matrix(truth, answer, labels=[0, 1, 2]).tolist()))
    assert [c.precision for c in scores.classes] == pytest.approx(precision.tolist())
    assert [c.recall for c in scores.classes] == pytest.approx(recall.tolist())
    assert [c.f1 for c in scores.classes] == pytest.approx(f1.tolist())
    assert [c.support for c in scores.classes] == support.tolist()
    assert scores.macro_f1 == pytest.approx(f1.mean())
    assert scores.pictures == len(pairs)


def test_rows_of_the_confusion_are_the_truth() -> None:
    truth, answer = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1])
    assert score(F.one_hot(answer, 2).float(), truth, ("a", "b")).confusion == ((0, 2), (0, 1))


@given(st.integers(1, 500), st.data())
def test_the_interval_holds_the_accuracy(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    low, high = accuracy_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1
    assert high - low > 0


def test_the_interval_is_the_bootstraps() -> None:
    random = np.random.default_rng(1)
    answers = np.array([1] * 80 + [0] * 20)
    resampled = [random.choice(answers, 100).mean() for _ in range(4000)]
    assert accuracy_interval(80, 100) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.015)


def test_no_error_is_no_certainty() -> None:
    low, high = accuracy_interval(30, 30)
    assert (round(low, 3), high) == (0.884, 1.0)  # Clopper and Pearson's bound for 30 of 30
    assert accuracy_interval(0, 30) == pytest.approx((0.0, 1 - low))


def test_the_interval_depends_on_the_seed_alone() -> None:
    assert accuracy_interval(7, 10, seed=3) == accuracy_interval(7, 10, seed=3)


multi = st.lists(
    st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3)),
    min_size=1,
    max_size=40,
)


@given(multi)
def test_multi_label_figures_equal_scikit_learns(rows: list[tuple[list[bool], list[bool]]]) -> None:
    truth, answer = (torch.tensor(column).float() for column in zip(*rows, strict=True))
    scores = score(10 * answer - 5, truth, LABELS, kind="multi_label")
    precision, recall, f1, support = precision_recall_fscore_support(truth, answer, zero_division=0)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, answer))
    assert [c.precision for c in scores.classes] == pytest.approx(precision.tolist())
    assert [c.recall for c in scores.classes] == pytest.approx(recall.tolist())
    assert [c.f1 for c in scores.classes] == pytest.approx(f1.tolist())
    assert [c.support for c in scores.classes] == support.tolist()
    assert scores.confusion == ()
    boxes = multilabel_confusion_matrix(truth, answer)
    for own, ((true_not, called_only), (true_only, both)) in zip(scores.classes, boxes.tolist(), strict=True):
        assert own.counts == (both, called_only, true_only, true_not)


@pytest.mark.parametrize("average", ["macro", "weighted"])
@given(pairs=answers)
def test_averages_equal_scikit_learns(average: str, pairs: list[tuple[int, int]]) -> None:
    truth, answer = (torch.tensor(column) for column in zip(*pairs, strict=True))
    own = getattr(score(F.one_hot(answer, 3).float(), truth, LABELS), average)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, answer, labels=[0, 1, 2], average=average, zero_division=0
    )
    assert (own.precision, own.recall, own.f1) == pytest.approx((precision, recall, f1))


@given(answers, st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_matter(pairs: list[tuple[int, int]], random: Random) -> None:
    shuffled = random.sample(pairs, len(pairs))
    first, second = (
        score(F.one_hot(torch.tensor([a for _, a in own]), 3).float(), torch.tensor([t for t, _ in own]), LABELS)
        for own in (pairs, shuffled)
    )
    assert first == second


@given(answers)
def test_intervals_hold_their_figures(pairs: list[tuple[int, int]]) -> None:
    truth, answer = (torch.tensor(column) for column in zip(*pairs, strict=True))
    scores = score(F.one_hot(answer, 3).float(), truth, LABELS)
    assert 0 <= scores.macro_f1_interval.low <= scores.macro_f1 <= scores.macro_f1_interval.high <= 1
    for own in scores.classes:
        assert 0 <= own.recall_interval.low <= own.recall_interval.high <= 1
        assert own.support == 0 or own.recall_interval.low <= own.recall <= own.recall_interval.high


def test_a_resample_may_show_no_label_at_all() -> None:
    truth = torch.tensor([[1.0, 1, 1], [0, 0, 0]])
    scores = score(10 * truth - 5, truth, LABELS, kind="multi_label")
    assert (scores.macro_f1, scores.macro_f1_interval.high) == (1, 1)
    assert scores.macro_f1_interval.low == pytest.approx(0.025)


def test_a_perfect_answer_claims_no_certainty() -> None:
    truth = torch.arange(30) % 3
    scores = score(F.one_hot(truth, 3).float(), truth, LABELS)
    assert scores.macro_f1 == scores.macro_f1_interval.high == 1
    assert scores.macro_f1_interval.low == pytest.approx(0.025 ** (1 / 10))
    assert scores.classes[0].recall_interval.low == pytest.approx(0.025 ** (1 / 10))


def test_intervals_cover_what_they_are_for() -> None:
    """Many data sets of the same adapter: nineteen of twenty intervals hold the true figures, nearly."""
    random = np.random.default_rng(0)
    recalls = np.array([0.9, 0.7, 0.8])
    accuracy, covered = recalls.mean(), np.zeros(3)
    runs = 300
    truth, true_f1 = np.repeat([0, 1, 2], 40), _f1(recalls)
    for run in range(runs):
        right = random.random(120) < recalls[truth]
        answer = torch.tensor(np.where(right, truth, (truth + 1) % 3))
        scores = score(F.one_hot(answer, 3).float(), torch.tensor(truth), LABELS, seed=run)
        own = scores.classes[1].recall_interval
        covered += [
            scores.low <= accuracy <= scores.high,
            own.low <= recalls[1] <= own.high,
            scores.macro_f1_interval.low <= true_f1 <= scores.macro_f1_interval.high,
        ]
    assert bool((covered / runs > 0.9).all())
    assert bool((covered / runs < 1).all())


def _f1(recalls: Floats) -> float:
    """Macro F1 when of each label's pictures the rest is called the next label."""
    called = recalls + np.roll(1 - recalls, 1)
    return float((2 * recalls / (1 + called)).mean())


@given(
    logits=st.lists(st.lists(st.integers(-300, 300), min_size=3, max_size=3), min_size=1, max_size=8),
    kind=st.sampled_from(["single_label", "multi_label"]),
    temperature=st.floats(0.05, 20),
    thresholds=st.just(()) | st.tuples(*[st.floats(0.01, 1)] * 3),
)
def test_decisions_are_those_of_a_server(
    logits: list[list[int]], kind: Kind, temperature: float, thresholds: tuple[float, ...]
) -> None:
    rows = torch.tensor(logits) / 10
    task = manifest(BACKBONE, "t", 3, kind=kind, temperature=temperature, thresholds=list(thresholds))
    called = decisions(rows, kind, Calibration(temperature, thresholds))
    for row, own in zip(probabilities(task, rows).tolist(), called.tolist(), strict=True):
        named = tuple(label for label, is_called in zip(task.labels, own, strict=True) if is_called)
        assert named == decide(task, tuple(row))
