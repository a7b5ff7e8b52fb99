from __future__ import annotations

import json
import pickle

import pytest

from lensmount.errors import IncompatibleError, InvalidInputError, LensmountError, ServerError, TooLargeError
from lensmount_server.video.reader import BrokenStreamError, CannotOpenError
from lensmount_server.workers.messages import (
    MAX_MESSAGE,
    Began,
    Closed,
    Ended,
    Handed,
    Next,
    Order,
    Packet,
    Ping,
    Pong,
    Prepared,
    Report,
    Took,
    error_of,
    order_bytes,
    read_order,
    read_report,
    report_bytes,
    words,
)

HANDED = Handed(3, 7, 280_000_000, 1_795_000_000_000_000_000, 2.5, 640, 360, 1, 9, False, 2, (0, 2), (1,) * 7)


@pytest.mark.parametrize(
    "report", [HANDED, Began(1, "h264"), Took(1), Prepared(0, 3), Ended(4), Closed(63), Pong(), Ended(1, ("a",) * 5)]
)
def test_reports_arrive_as_they_were(report: Report) -> None:
    assert read_report(report_bytes(report)) == report


@pytest.mark.parametrize("order", [Next(1, (), 2, (0,), jpeg=True), Packet(1, 5), Ping()])
def test_orders_arrive_as_they_were(order: Order) -> None:
    assert read_order(order_bytes(order)) == order


@pytest.mark.parametrize(
    "kind", [BrokenStreamError, CannotOpenError, InvalidInputError, TooLargeError, IncompatibleError]
)
def test_errors_arrive_as_they_were(kind: type[LensmountError]) -> None:
    error = kind("too dark", field="url", value="rtsp://camera", fix="switch on the light")
    arrived = error_of(read_report(report_bytes(Ended(1, words(error)))).error)  # type: ignore[union-attr]
    assert type(arrived) is kind
    assert str(arrived) == str(error)


def test_an_error_that_is_not_known_is_a_defect() -> None:
    assert isinstance(error_of(("KeyboardInterrupt", "what", "", "", "")), ServerError)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'["Open", 1]',
        b'["os.system", "true"]',
        b"\xff\xfe",
        b"[1]",
        b"5",
        b'["Pong", 1]',
        b'["Handed"]',
        b'[["Pong"]]',
    ],
)
def test_a_worker_can_say_nothing_else(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_report(data)


def test_a_report_is_never_unpickled() -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_report(pickle.dumps(Pong()))
    assert json.loads(report_bytes(HANDED))[0] == "Handed"


def test_an_error_that_says_too_much_fits_into_a_message() -> None:
    error = BrokenStreamError("x" * 1_000_000, fix="y" * 1_000_000)
    assert len(report_bytes(Ended(1, words(error)))) < MAX_MESSAGE
