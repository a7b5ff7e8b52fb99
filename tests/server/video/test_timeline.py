from __future__ import annotations

import time
from threading import Event

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
