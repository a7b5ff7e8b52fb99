from __future__ import annotations

import logging
import struct
from typing import Any

import av
import pytest

from lensmount_server.video.clock import CameraClock, _told_ns

MS = 1_000_000
NS = 1_000 * MS
NOW = 1_800_000_000 * NS


def run(
    clock: CameraClock, count: int, *, off_ms: float, ages_ms: list[float] | None = None, start: int = 0
) -> list[float]:
    """Age in milliseconds that each frame is given; the camera's clock is `off_ms` ahead of ours."""
    told_ages = []
    for number in range(start, start + count):
        taken = NOW + number * 40 * MS
        age = (ages_ms or [30.0])[number % len(ages_ms or [30.0])]
        arrival = taken + int(age * MS)
        stamp = clock.judge(taken + int(off_ms * MS), number * 40 * MS, arrival)
        assert stamp <= arrival
        told_ages.append((arrival - stamp) / MS)
    return told_ages


def test_a_right_clock_is_believed_after_a_few_packets() -> None:
    clock = CameraClock()
    ages = run(clock, 50, off_ms=0)
    assert ages[:12] == [0] * 12
    assert ages[12:] == [30] * 38
    assert clock.trouble == ""


def test_a_delay_on_the_way_is_seen() -> None:
    clock = CameraClock()
    run(clock, 20, off_ms=0)
    assert run(clock, 5, off_ms=0, ages_ms=[4000], start=20) == [4000] * 5
    assert run(clock, 5, off_ms=0, start=25) == [30] * 5


@pytest.mark.parametrize(("off_ms", "words"), [(3.6e6, "ahead"), (500, "ahead"), (-5_000, "behind"), (-1e9, "behind")])
def test_a_wrong_clock_is_not_believed(off_ms: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = CameraClock("rtsp://camera/x")
    with caplog.at_level(logging.INFO):
        assert set(run(clock, 100, off_ms=off_ms)) == {0}
    assert words in clock.trouble
    assert caplog.text.count("rtsp://camera/x") == 1  # said once


def test_a_clock_that_jumps_is_judged_anew() -> None:
    clock = CameraClock()
    run(clock, 50, off_ms=0)
    assert set(run(clock, 50, off_ms=-60_000, start=50)) == {0}
    assert clock.trouble
    ages = run(clock, 50, off_ms=0, start=100)
    assert ages[:12] == [0] * 12
    assert ages[20:] == [30] * 30
    assert clock.trouble == ""


def test_a_clock_that_jumps_all_the_time_is_never_believed() -> None:
    clock = CameraClock()
    ages = [run(clock, 1, off_ms=-500 * (number % 2), start=number)[0] for number in range(100)]
    assert set(ages) == {0}


def test_packets_without_a_time_count_from_their_arrival() -> None:
    packet: Any = av.Packet(4)
    assert _told_ns(packet) is None
    assert CameraClock().stamp(packet, NOW) == NOW


def test_the_time_in_a_packet_is_read() -> None:
    class Timed:
        def has_sidedata(self, kind: str) -> bool:
            return kind == "prft"

        def get_sidedata(self, _: str) -> bytes:
            return struct.pack("=qi4x", NOW // 1000, 24)

    timed: Any = Timed()
    assert _told_ns(timed) == NOW
