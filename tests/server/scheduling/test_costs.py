from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.scheduling import LearnedCosts, best_batch

SECONDS = st.floats(1e-5, 10, allow_nan=False)
SEEN = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 64), SECONDS), min_size=1, max_size=60)


def taught(costs: LearnedCosts, batches: int = 200, fixed_s: float = 0.004, each_s: float = 0.003) -> LearnedCosts:
    draw = random.Random(1)
    for _ in range(batches):
        frames = draw.randint(1, 8)
        costs.observe(frames, 2 * frames, fixed_s + each_s * 3 * frames)
    return costs


def test_nothing_is_refused_unseen() -> None:
    assert LearnedCosts().batch_s(8, 64) == 0.0


def test_a_line_is_learned() -> None:
    costs = taught(LearnedCosts())
    for frames in range(1, 9):
        assert costs.batch_s(frames, 2 * frames) == pytest.approx(0.004 + 0.009 * frames, rel=0.1)


def test_batches_of_one_size_tell_of_others_in_proportion() -> None:
    costs = LearnedCosts()
    for _ in range(100):
        costs.observe(2, 2, 0.02)
    assert costs.batch_s(2, 2) == pytest.approx(0.02, rel=0.05)
    assert costs.batch_s(4, 4) == pytest.approx(0.04, rel=0.05)


def test_an_engine_that_changes_is_followed() -> None:
    costs = taught(LearnedCosts())
    before = costs.batch_s(4, 8)
    taught(costs, 100, 0.02, 0.015)
    assert costs.batch_s(4, 8) > 4 * before
    taught(costs, 200)
    assert costs.batch_s(4, 8) == pytest.approx(before, rel=0.1)


def test_noise_puts_the_estimate_on_the_safe_side() -> None:
    draw, costs, over = random.Random(2), LearnedCosts(), 0
    for number in range(2000):
        seconds = 0.04 * draw.uniform(0.7, 1.3)
        over += number > 100 and seconds > costs.batch_s(8, 8)
        costs.observe(8, 8, seconds)
    assert over < 0.05 * 1900


def test_one_hiccup_is_not_believed() -> None:
    costs = taught(LearnedCosts())
    before = costs.batch_s(8, 16)
    costs.observe(8, 16, 100.0)
    assert costs.batch_s(8, 16) < 3 * before


@given(SEEN)
def test_estimates_are_sane_whatever_was_seen(seen: list[tuple[int, int, float]]) -> None:
    costs = LearnedCosts()
    for frames, rows, seconds in seen:
        costs.observe(frames, rows, seconds)
        estimates = [costs.batch_s(size, size) for size in range(1, 9)]
        assert all(0 < estimate < 1e4 for estimate in estimates)
        assert estimates == sorted(estimates)


def test_a_table_is_where_learning_begins() -> None:
    costs = LearnedCosts.of_table({8: 64.0, 1: 15.0, 4: 36.0})
    assert costs.batch_s(4, 4) == pytest.approx(0.036, rel=0.3)
    assert costs.batch_s(1, 1) < costs.batch_s(4, 4) < costs.batch_s(8, 8)
    for _ in range(200):
        costs.observe(8, 8, 0.128)
    assert costs.batch_s(8, 8) == pytest.approx(0.128, rel=0.1)


def test_an_empty_table_says_nothing() -> None:
    assert LearnedCosts.of_table({}).batch_s(8, 8) == 0


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ({1: 10.0}, 1),
        ({1: 10.0, 2: 19.0, 4: 37.9, 8: 80.0}, 2),
        ({1: 10.0, 2: 16.0, 4: 30.0, 8: 50.0, 16: 99.0}, 8),
        ({1: 10.0, 2: 20.0, 4: 40.0}, 1),
    ],
)
def test_the_best_batch_is_the_smallest_that_is_nearly_as_cheap_a_frame_as_any(
    table: dict[int, float], best: int
) -> None:
    assert best_batch(table) == best
