"""The learning rate's course, and numbers that can not work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount_training.strategies.schedule import Schedule


@given(st.integers(1, 500), st.floats(0, 0.5))
def test_the_rate_rises_then_falls_to_nothing(steps: int, warmup: float) -> None:
    schedule = Schedule(warmup=warmup)
    factors = [schedule.factor(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert schedule.factor(steps, steps) < 1e-9 or steps == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("epochs", 0),
        ("batch", 0),
        ("micro_batch", 0),
        ("patience", -1),
        ("ema", 1.0),
        ("label_smoothing", -0.1),
    ],
)
def test_numbers_that_can_not_work(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Schedule(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.fix


def test_portions_are_small_where_caches_are() -> None:
    schedule = Schedule(batch=32)
    assert (schedule.portion("cpu"), schedule.portion("cuda")) == (8, 32)
    assert Schedule(micro_batch=4).portion("cuda") == 4


@pytest.mark.parametrize(("pictures", "epochs"), [(1, 100), (32, 100), (33, 50), (320, 10), (10_000, 8)])
def test_small_sets_get_more_epochs(pictures: int, epochs: int) -> None:
    assert Schedule(epochs=8, least_steps=100, batch=32).epochs_for(pictures) == epochs
