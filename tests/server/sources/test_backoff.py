from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_server.sources.backoff import Backoff


@settings(deadline=None)
@given(st.integers(1, 10_000), st.floats(0.01, 5), st.floats(5, 100))
def test_delays_stay_between_half_and_all_of_the_doubled_step(failures: int, first_s: float, longest_s: float) -> None:
    whole = min(longest_s, first_s * 2.0 ** min(failures - 1, 30))
    assert whole / 2 <= Backoff(first_s, longest_s).delay_s(failures) <= whole


def test_delays_are_spread() -> None:
    assert len({Backoff().delay_s(3) for _ in range(20)}) > 10
