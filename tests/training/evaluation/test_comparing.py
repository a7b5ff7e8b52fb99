"""McNemar's test is the coin's; the bootstrap is paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from lensmount_training.evaluation.comparing import compare, mcnemar
from lensmount_training.evaluation.intervals import Ints
from lensmount_training.evaluation.scores import Bools


def one_hot(answers: Ints) -> Bools:
    return np.asarray(answers[:, None] == np.arange(3))


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    if first + second:
        assert mcnemar(first, second) == pytest.approx(binomtest(first, first + second).pvalue)
    assert mcnemar(first, second) == mcnemar(second, first)
    assert 0 <= mcnemar(first, second) <= 1


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 5) == 2 / 2**5
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1
    assert mcnemar(5_000, 5_400) == pytest.approx(binomtest(5_000, 10_400).pvalue)


def drawn(count: int, share_first: float, share_second: float, seed: int) -> tuple[Bools, Bools, Bools]:
    """Two adapters that are wrong on the same hard pictures, the second on some more or fewer."""
    random = np.random.default_rng(seed)
    truth, hard = random.integers(0, 3, count), random.random(count)
    first, second = (np.where(hard < share, truth, (truth + 1) % 3) for share in (share_first, share_second))
    return one_hot(first), one_hot(second), one_hot(truth)


def test_a_better_adapter_is_called_so() -> None:
    first, second, true = drawn(400, 0.7, 0.8, 0)
    own = compare("old", "new", first, second, true)
    assert own.only_first == 0
    assert own.accuracy.value == pytest.approx(own.only_second / 400)
    assert 0 < own.accuracy.interval.low < own.accuracy.value < own.accuracy.interval.high
    assert 0 < own.macro_f1.interval.low < own.macro_f1.interval.high
    assert "new is better, which is hardly luck" in own.words
    turned = compare("new", "old", second, first, true)
    assert "new is better" in turned.words
    assert turned.accuracy.value == -own.accuracy.value


def test_the_same_answers_are_no_difference() -> None:
    first, _, true = drawn(50, 0.7, 0.7, 1)
    own = compare("a", "b", first, first, true)
    assert (own.p, own.accuracy.value, own.accuracy.interval.low, own.macro_f1.interval.high) == (1, 0, 0, 0)
    assert own.words == "a and b are right and wrong on the same 50 pictures."


def test_luck_is_called_luck() -> None:
    first, second, true = drawn(100, 0.7, 0.72, 2)
    own = compare("a", "b", first, second, true)
    assert own.p > 0.05
    assert "may be luck" in own.words
    assert own.accuracy.interval.low <= 0


def test_the_difference_of_f1_is_scikit_learns() -> None:
    first, second, true = drawn(90, 0.6, 0.8, 3)
    own = compare("a", "b", first, second, true)
    apart = [f1_score(true.argmax(1), called.argmax(1), average="macro") for called in (first, second)]
    assert own.macro_f1.value == pytest.approx(apart[1] - apart[0])


def test_pairing_makes_the_interval_narrower_than_two_apart() -> None:
    first, second, true = drawn(400, 0.7, 0.72, 4)
    random = np.random.default_rng(0)
    shuffled = random.permutation(400)
    paired = compare("a", "b", first, second, true).accuracy.interval
    # The same two accuracies, their mistakes on pictures that have nothing to do with each other.
    wrong = (second != true).any(1)[shuffled]
    other = one_hot(np.where(wrong, (true.argmax(1) + 1) % 3, true.argmax(1)))
    apart = compare("a", "b", first, other, true).accuracy.interval
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


@given(st.permutations(range(30)))
def test_the_order_of_the_pictures_does_not_matter(order: list[int]) -> None:
    first, second, true = drawn(30, 0.5, 0.7, 5)
    assert compare("a", "b", first, second, true) == compare("a", "b", first[order], second[order], true[order])
