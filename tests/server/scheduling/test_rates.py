from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.scheduling import StreamClock, Turns

NS = 1_000_000_000
HOURS_S = 2 * 3600


def camera(fps: float, seconds: float, jitter: float = 0.0, seed: int = 0) -> Iterator[int]:
    """The times of a camera's frames in nanoseconds, each off by up to so much of a period."""
    draw = random.Random(seed)
    return (round(NS * (number + jitter * draw.random()) / fps) for number in range(int(seconds * fps)))


def taken(turns: Turns, times: Iterator[int]) -> list[int]:
    return [now_ns for now_ns in times if turns.take(now_ns)]


def check_rate(make: Callable[[float], Turns], fps: float, max_fps: float, jitter: float = 0.0) -> None:
    """Over hours a task gets its rate, or the camera's where that is less: to 0.1 %, to 1 % where frames jump about."""
    count = len(taken(make(max_fps), camera(fps, HOURS_S, jitter)))
    assert count == pytest.approx(min(fps, max_fps) * HOURS_S, rel=1e-2 if jitter else 1e-3, abs=2)


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("max_fps", [0.1, 1, 7, 10, 14.985, 24, 29.97, 30])
@pytest.mark.parametrize("fps", [25, 29.97, 30])
def test_the_rate_is_kept_over_hours(fps: float, max_fps: float, jitter: float) -> None:
    check_rate(Turns, fps, max_fps, jitter)


class Drifting(Turns):
    """The next turn counts from the frame that was taken, not from its turn."""

    def take(self, now_ns: int) -> bool:
        if self._next_ns is not None and now_ns < self._next_ns:
            return False
        self._next_ns = now_ns + self._period_ns
        return True


def test_a_drift_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        check_rate(Drifting, 25, 7)


def test_a_beat_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        check_rate(Drifting, 30, 29.97)


@pytest.mark.parametrize("fps", [25, 29.97, 30, 60])
def test_a_rate_that_is_the_cameras_own_skips_nothing(fps: float) -> None:
    times = list(camera(fps, 600, jitter=0.45))
    assert taken(Turns(fps), iter(times)) == times


def test_times_rounded_to_milliseconds_skip_nothing() -> None:
    times = [round(number * 1000 / 30) * 1_000_000 for number in range(1000)]
    assert taken(Turns(30), iter(times)) == times


def test_without_a_rate_every_frame_is_taken() -> None:
    assert len(taken(Turns(0), iter([0, 0, 5, 6]))) == 4


GAPS = st.lists(st.integers(0, 3 * NS), min_size=1, max_size=200)
RATES = st.floats(0.1, 100)


@given(GAPS, RATES)
def test_no_span_holds_more_than_the_rate(gaps: list[int], max_fps: float) -> None:
    turns, now_ns, times = Turns(max_fps), 0, []
    for gap in gaps:
        now_ns += gap
        times += [now_ns] * turns.take(now_ns)
    for first, start in enumerate(times):
        for count, end in enumerate(times[first:], 1):
            assert count <= (end - start) / NS * max_fps * (1 + 1e-6) + 2


@given(GAPS, RATES)
def test_a_turn_that_is_given_back_is_the_next_frames(gaps: list[int], max_fps: float) -> None:
    turns, now_ns = Turns(max_fps), 0
    for gap in gaps:
        now_ns += gap
        if turns.take(now_ns):
            turns.give_back()
            assert turns.take(now_ns + gap % 7)


def test_giving_back_does_not_raise_the_rate() -> None:
    turns, kept = Turns(1), 0
    for number, now_ns in enumerate(camera(30, HOURS_S)):
        if turns.take(now_ns):
            if number % 3:
                turns.give_back()
            else:
                kept += 1
    assert kept == pytest.approx(HOURS_S, rel=1e-3)


TICKS = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 2**62)), min_size=1, max_size=50)


@given(TICKS)
def test_a_streams_time_never_goes_back(ticks: list[tuple[int, int]]) -> None:
    clock = StreamClock()
    times = [clock.tick(pts_ns, capture_ns) for pts_ns, capture_ns in ticks]
    assert times[0] == 0
    assert all(later >= earlier for earlier, later in pairwise(times))


def test_presentation_times_are_followed_though_frames_come_in_a_rush() -> None:
    clock = StreamClock()
    assert [clock.tick(pts_ns, capture_ns) for pts_ns, capture_ns in [(7, 100), (47, 101), (87, 102)]] == [0, 40, 80]


def test_without_presentation_times_the_capture_counts() -> None:
    clock = StreamClock()
    assert [clock.tick(0, capture_ns) for capture_ns in (100, 140, 130, 180)] == [0, 40, 40, 90]


def test_a_camera_that_starts_again_goes_on() -> None:
    clock = StreamClock()
    times = [(1000, 0), (1040, 40), (0, 90), (40, 130)]
    assert [clock.tick(pts_ns, capture_ns) for pts_ns, capture_ns in times] == [0, 40, 90, 130]
