"""Figures equal scikit-learn's; the interval covers and never claims certainty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from torch.nn import functional as F

from lensmount_training.evaluation import accuracy_interval, score

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
