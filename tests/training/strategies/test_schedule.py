"""The learning rate's course, and numbers that can not work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount_training.strategies import FeatureExtraction, FineTune, FromScratch, Lora
from lensmount_training.strategies.schedule import DEEP_RATES, USUAL_RATES, Schedule, too_fast


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


@pytest.mark.parametrize(
    ("rates", "field", "fix"),
    [
        ({"lora": 0.02, "head": 0.02}, "learning_rate", "lower it: --learning-rate 0.002"),
        (
            {"lora": 1e30, "head": 1e30},
            "learning_rate",
            "leave --learning-rate out: the strategy's own, 0.001 to 0.003",
        ),
        ({"head": 1e-3, "blocks.3": 1e20}, "backbone_rate", "leave --backbone-rate out: the strategy's own, 1e-05 to"),
    ],
)
def test_a_rate_that_is_too_high_by_far_is_not_advised_a_tenth_of_it(
    rates: dict[str, float], field: str, fix: str
) -> None:
    error = too_fast(rates)
    assert error.field == field
    assert str(error.fix).startswith(fix)


def test_the_usual_rates_are_those_of_the_strategies() -> None:
    own = [strategy().schedule.learning_rate for strategy in (FeatureExtraction, FineTune, FromScratch, Lora)]
    assert (min(own), max(own)) == USUAL_RATES
    assert (FineTune().deep_rate, FineTune().shallow_rate) == DEEP_RATES
