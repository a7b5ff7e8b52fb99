"""Curves equal scikit-learn's, calibration error is what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, brier_score_loss, roc_auc_score

from lensmount_training.evaluation.curves import curves, reliability
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.scores import Bools

rows = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=60)


def drawn(count: int, seed: int, sharper: float = 1.0) -> tuple[Floats, Bools]:
    """Probabilities of three labels, and truths drawn from them; `sharper` is what the adapter then says of them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (count, 3))
    right = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([random.choice(3, p=row) for row in right])
    said = np.exp(sharper * logits)
    return said / said.sum(1, keepdims=True), truth[:, None] == np.arange(3)


@given(rows)
def test_areas_equal_scikit_learns(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([[score / 10] for score, _ in pairs])
    true = np.array([[is_true] for _, is_true in pairs])
    found = curves(scores, true, ("a",))
    if true.all() or not true.any():
        assert found == ()
        return
    (own,) = found
    assert own.roc_auc == pytest.approx(roc_auc_score(true, scores))
    assert own.average_precision == pytest.approx(average_precision_score(true, scores))
    assert auc(*zip(*own.roc, strict=True)) == pytest.approx(own.roc_auc)
    assert own.roc[0] == (0, 0)
    assert own.roc[-1] == (1, 1)
    recalls = [recall for recall, _ in own.pr]
    assert recalls == sorted(recalls)
    assert (recalls[0], recalls[-1]) == (0, 1)


def test_calibration_error_by_hand() -> None:
    said = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    true = np.array([[True, False], [False, True], [False, True], [False, True]])
    own = reliability(said, true, "single_label")
    assert own.ece == pytest.approx((0.1 + 0.9 + 0.4 + 0.4) / 4)  # each picture is a bin of its own
    assert [each.pictures for each in own.bins] == [1] * 4


def test_brier_scores_equal_scikit_learns() -> None:
    said, true = drawn(200, 0)
    apart = [brier_score_loss(true[:, i], said[:, i]) for i in range(3)]
    assert reliability(said, true, "single_label").brier == pytest.approx(sum(apart))
    assert reliability(said, true, "multi_label").brier == pytest.approx(np.mean(apart))


def test_bins_hold_as_many_pictures_each() -> None:
    own = reliability(*drawn(1003, 1), "single_label")
    sizes = [each.pictures for each in own.bins]
    assert (len(sizes), sum(sizes)) == (15, 1003)
    assert max(sizes) - min(sizes) <= 1
    assert [each.confidence for each in own.bins] == sorted(each.confidence for each in own.bins)


def test_probabilities_that_are_right_stay_below_chance() -> None:
    below = [reliability(*drawn(150, seed), "single_label") for seed in range(60)]
    assert np.mean([own.ece <= own.ece_by_chance for own in below]) > 0.85


def test_an_adapter_that_is_too_sure_does_not() -> None:
    own = reliability(*drawn(600, 0, sharper=3), "single_label")
    assert own.ece > 2 * own.ece_by_chance


@given(st.permutations(range(40)))
def test_the_order_of_the_pictures_does_not_matter(order: list[int]) -> None:
    said, true = drawn(40, 3)
    said = said.round(1)  # many of equal confidence
    first, second = reliability(said, true, "single_label"), reliability(said[order], true[order], "single_label")
    assert first.ece == pytest.approx(second.ece)
    assert [each.accuracy for each in first.bins] == [each.accuracy for each in second.bins]
