from __future__ import annotations

import pytest

from lensmount_server.sources.meter import Meter


def test_frames_a_second_over_the_window() -> None:
    meter = Meter(window_s=5.0)
    for tick in range(41):
        meter.read(tick * 0.25, tick * 5)
    assert meter.fps() == pytest.approx(20.0)


def test_the_past_is_forgotten() -> None:
    meter = Meter(window_s=2.0)
    for tick in range(100):
        meter.read(tick * 0.25, min(tick, 50) * 10)
    assert meter.fps() == 0.0


def test_idle_time_runs_since_the_last_frame() -> None:
    meter = Meter()
    meter.read(10.0, 1)
    meter.read(11.0, 2)
    assert meter.idle_s() == 0.0
    meter.read(13.5, 2)
    assert meter.idle_s() == 2.5


def test_an_unread_meter_says_nothing() -> None:
    meter = Meter()
    assert (meter.fps(), meter.idle_s()) == (0.0, 0.0)
