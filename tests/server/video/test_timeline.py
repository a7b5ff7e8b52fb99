from __future__ import annotations

import time
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_server.video.timeline import Pacer, Timeline

MS = 1_000_000
recordings = st.lists(st.lists(st.none() | st.integers(-(10**12), 10**12), max_size=8), max_size=5)


@settings(deadline=None)
@given(recordings)
def test_indices_count_and_times_rise_whatever_the_recordings_say(recordings: list[list[int | None]]) -> None:
    timeline = Timeline()
    placed = []
    for recording in recordings:
        timeline.begin(40 * MS)
        placed += [timeline.place(pts) for pts in recording]
    assert [index for index, _ in placed] == list(range(len(placed)))
    times = [pts for _, pts in placed]
    assert times == sorted(set(times))
    assert timeline.frames == len(placed)


def test_a_loop_goes_on_one_step_later() -> None:
    timeline = Timeline()
    times = []
    for _ in range(2):
        timeline.begin(40 * MS)
        times += [timeline.place(pts)[1] // MS for pts in (500 * MS, 540 * MS, 590 * MS)]
    assert times == [0, 40, 90, 130, 170, 220]


def test_a_stream_without_times_gets_equal_steps() -> None:
    timeline = Timeline()
    timeline.begin(20 * MS)
    assert [timeline.place(None)[1] // MS for _ in range(3)] == [0, 20, 40]


def test_a_first_frame_without_time_does_not_shift_the_rest() -> None:
    timeline = Timeline()
    timeline.begin(40 * MS)
    assert [timeline.place(pts)[1] // MS for pts in (None, 40 * MS, 80 * MS)] == [0, 40, 80]


@pytest.mark.parametrize(
    ("own_ms", "placed_ms"),
    [
        ([0, 40, 40, 80, 120], [0, 40, 80, 120, 160]),  # one repeats: a step of its own
        ([7, 7, 7, 7], [0, 40, 80, 120]),  # always the same
        ([9_000_000, 9_000_040, 0, 40, 80], [0, 40, 80, 120, 160]),  # back by hours
        ([0, 40, 7_200_000, 7_200_040], [0, 40, 7_200_000, 7_200_040]),  # a hole of two hours: time has passed
        ([0, 40, 10**12, 10**12 + 40], [0, 40, 80, 120]),  # of thirty years: nonsense
        ([0, 40, 10**12, 80, 120], [0, 40, 80, 120, 160]),  # and back
        ([0, 40, -(10**15), 10**15, None], [0, 40, 80, 120, 160]),
    ],
)
def test_times_that_repeat_or_jump(own_ms: list[int | None], placed_ms: list[int]) -> None:
    timeline = Timeline()
    timeline.begin(40 * MS)
    placed = [timeline.place(None if pts is None else pts * MS)[1] // MS for pts in own_ms]
    assert placed == placed_ms


@given(st.lists(st.none() | st.integers(-(2**63), 2**63), max_size=50))
def test_times_stay_small_enough_to_travel(own: list[int | None]) -> None:
    timeline = Timeline()
    timeline.begin(0)
    day = 24 * 3600 * 1000 * MS
    assert all(timeline.place(pts)[1] <= number * day for number, pts in enumerate(own))


def test_the_pacer_waits_until_a_frame_is_due() -> None:
    pacer = Pacer(Event())
    started = time.monotonic()
    for pts_ms in (0, 100, 200):
        pacer.wait(pts_ms * MS)
    assert time.monotonic() - started >= 0.2


def test_the_pacer_does_not_sleep_through_a_hole() -> None:
    pacer = Pacer(Event())
    started = time.monotonic()
    pacer.wait(0)
    pacer.wait(3_600_000 * MS)
    assert time.monotonic() - started < 60


def test_the_pacer_does_not_rush_after_a_slow_reader() -> None:
    pacer = Pacer(Event())
    pacer.wait(0)
    pacer._zero_ns = (pacer._zero_ns or 0) - 5_000 * MS  # as if five seconds had gone by
    pacer.wait(100 * MS)
    started = time.monotonic()
    pacer.wait(300 * MS)
    assert time.monotonic() - started >= 0.2


def test_a_stop_ends_the_wait() -> None:
    stop = Event()
    stop.set()
    pacer = Pacer(stop)
    started = time.monotonic()
    pacer.wait(0)
    pacer.wait(9_000 * MS)
    assert time.monotonic() - started < 8
