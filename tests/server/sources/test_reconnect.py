from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_server.sources.connecting import delay_s
from lensmount_server.video.settings import Reconnect


@settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 5000), st.integers(5000, 100_000))
def test_delays_stay_between_half_and_all_of_the_doubled_step(failures: int, first_ms: int, longest_ms: int) -> None:
    whole_s = min(longest_ms, first_ms * 2.0 ** min(failures - 1, 30)) / 1e3
    assert whole_s / 2 <= delay_s(Reconnect(first_ms, longest_ms), failures) <= whole_s


def test_delays_are_spread() -> None:
    assert len({delay_s(Reconnect(), 3) for _ in range(20)}) > 10
