"""The soak's own guards can fail."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.failures import CONTROLS, FAILURES
from benchmarks.soak import Reading, Report, Row, _judge, _turns

WAYS = [*FAILURES, *CONTROLS]


def report(quiet_ms: float, failing_ms: float, readings: list[Reading]) -> Report:
    rows = [Row("quiet", 3, 100, 5.0, quiet_ms), Row("any failure", 3, 100, 5.0, failing_ms)]
    return Report(60.0, rows, readings)


FLAT = [Reading(500.0, 40, 900.0, 60)] * 6


def test_a_calm_run_is_right() -> None:
    calm = report(20.0, 25.0, FLAT)
    _judge(calm)
    assert calm.wrong == []


@pytest.mark.parametrize(
    ("failing_ms", "last", "says"),
    [
        (500.0, FLAT[0], "healthy cameras"),
        (20.0, Reading(600.0, 40, 900.0, 60), "memory grew by 100 MiB"),
        (20.0, Reading(500.0, 90, 900.0, 60), "50 descriptors more"),
    ],
)
def test_what_must_not_be_is_told(failing_ms: float, last: Reading, says: str) -> None:
    wrong = report(20.0, failing_ms, [*FLAT[:4], last, last])
    _judge(wrong)
    assert len(wrong.wrong) == 1
    assert says in wrong.wrong[0]


@pytest.mark.parametrize("cameras", [3, 8])
def test_every_camera_fails_in_every_way(cameras: int) -> None:
    names = [str(number) for number in range(cameras)]
    rounds = cameras * len(WAYS) * cameras
    assert set(islice(_turns(names), rounds)) == {(name, failure) for name in names for failure in WAYS}
    assert {failure for _, failure in islice(_turns(names), len(WAYS))} == set(WAYS)
