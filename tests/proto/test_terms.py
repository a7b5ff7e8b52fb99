from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from lensmount import InvalidInputError
from lensmount.terms import deadline_number, priority_number, rate_number


@pytest.mark.parametrize("value", [0, 1, 3_600_000])
def test_deadlines(value: int) -> None:
    assert deadline_number(value) == value


@pytest.mark.parametrize("value", [-1, 3_600_001, 2**32, 2**70, 33.3, nan, inf, "100", None])
def test_what_is_no_deadline(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="not a deadline") as caught:
        deadline_number(value)
    assert (caught.value.field, caught.value.value, bool(caught.value.fix)) == ("deadline_ms", str(value), True)


@pytest.mark.parametrize("value", [-10, 0, 10])
def test_priorities(value: int) -> None:
    assert priority_number(value) == value


@pytest.mark.parametrize("value", [-11, 11, 2**40, 0.5, nan, "high", None])
def test_what_is_no_priority(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="not a priority") as caught:
        priority_number(value)
    assert (caught.value.field, caught.value.value, bool(caught.value.fix)) == ("priority", str(value), True)


@pytest.mark.parametrize("value", [0, 0.001, 1, 29.97, 1000])
def test_rates(value: float) -> None:
    assert rate_number(value) == value


@pytest.mark.parametrize("value", [-1, -0.5, 1e-9, 1001, 1e300, inf, -inf, nan])
def test_what_is_no_rate(value: float) -> None:
    with pytest.raises(InvalidInputError, match="not a rate") as caught:
        rate_number(value)
    assert (caught.value.field, bool(caught.value.value), bool(caught.value.fix)) == ("tasks", True, True)
