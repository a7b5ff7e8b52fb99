"""The long measurements in a short form: what they promise must hold whatever the machine's speed is."""

from __future__ import annotations

import pytest

from benchmarks import idle, recovery, rtsp_delay, soak
from benchmarks.failures import FAILURES
from rtsp_server import needs_rtsp

pytestmark = [pytest.mark.slow, pytest.mark.rtsp]


@pytest.fixture(autouse=True)
def _server_or_skip() -> None:
    needs_rtsp()


def test_cameras_that_fail_in_turn_come_back_and_their_accounts_are_exact() -> None:
    report = soak.soak(44.0, period_s=11.0, cameras=3)
    assert report.wrong == []
    assert {row.window for row in report.rows} >= {"quiet", "any failure", *FAILURES}
    assert all(row.results > 0 for row in report.rows)


def test_a_camera_that_was_down_comes_back_and_another_one_goes_on() -> None:
    report = recovery.measure(1, down_s=4.0)
    assert len(report.recovered_s) == 1
    assert (report.failed, report.connections) == (0, 1)
    assert report.frames > 100


def test_the_delay_of_a_camera_is_measured_against_a_reader_of_the_same_pictures() -> None:
    report = rtsp_delay.measure(5.0)
    assert report.results > 50
    assert 0 < report.plain_p50_ms < report.result_p50_ms


def test_paused_sources_cost_nothing() -> None:
    """A busy machine makes it slower, not busier: the processor time of the server itself is looked at."""
    report = idle.measure(8, 5.0)
    assert report.server_percent + report.children_percent < 5
