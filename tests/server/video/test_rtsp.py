"""A real camera: how its packets travel, what clock they carry, and what its name may resolve to."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame
from lensmount_server.video.address import parse_address
from lensmount_server.video.errors import BrokenStreamError
from lensmount_server.video.open import open_reader
from lensmount_server.video.policy import AddressPolicy, parse_network
from lensmount_server.video.reader import ReaderOptions
from lensmount_server.video.settings import Transport
from rtsp_server import RtspServer, needs_rtsp
from videos import ANYWHERE, NS

CALM = ReaderOptions(silence_s=20.0)
MS = 1_000_000

pytestmark = pytest.mark.rtsp


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    needs_rtsp()
    with RtspServer() as server:
        yield server


def first(count: int, url: str, transport: Transport = Transport.TCP, policy: AddressPolicy = ANYWHERE) -> list[Frame]:
    source = open_reader(parse_address(url, policy, transport), options=CALM)
    with closing(source.frames()) as frames:
        return list(islice(frames, count))


@pytest.mark.parametrize("transport", Transport)
def test_both_transports(camera: RtspServer, transport: Transport) -> None:
    source = open_reader(parse_address(camera.url, ANYWHERE, transport), options=CALM)
    with closing(source.frames()) as frames:
        assert len(list(islice(frames, 30))) == 30
    assert (source.codec, source.skipped, source.broken) == ("h264", 0, 0)


def test_a_udp_camera_that_dies_is_a_failure(camera: RtspServer) -> None:
    source = open_reader(parse_address(camera.url, ANYWHERE, Transport.UDP), options=ReaderOptions(silence_s=3.0))
    with closing(source.frames()) as frames:
        next(frames)
        camera.kill()
        with pytest.raises(BrokenStreamError):
            list(frames)


@pytest.mark.parametrize("transport", Transport)
def test_frames_carry_the_cameras_own_clock(camera: RtspServer, transport: Transport) -> None:
    """Arrival trembles; the camera's clock, known from its second or third second on, goes with the stream's times."""
    source = open_reader(parse_address(camera.url, ANYWHERE, transport), options=CALM)
    ages, drifts = [], []
    with closing(source.frames()) as frames:
        for frame in islice(frames, 225):
            ages.append(time.time_ns() - frame.capture_time_ns)
            drifts.append(frame.capture_time_ns - frame.pts_ns)
    late = drifts[175:]
    assert max(late) - min(late) < 2 * MS
    assert max(drifts[:40]) - min(drifts[:40]) > 0  # arrival, before the camera has told its clock
    assert all(MS < age < 2 * NS for age in ages[175:])


def test_a_camera_is_reached_by_name(camera: RtspServer) -> None:
    here = AddressPolicy(networks=(parse_network("127.0.0.1"), parse_network("::1")))
    assert first(1, f"rtsp://localhost:{camera.port}/cam", policy=here)


def test_a_name_that_leads_out_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def lying(host: str, *given: object, **named: object) -> object:
        return real("127.0.0.2" if host == "camera.test" else host, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lying)
    with socket.create_server(("127.0.0.2", 0)) as inside:
        inside.setblocking(False)
        url = f"rtsp://me:secret@camera.test:{inside.getsockname()[1]}/cam"
        with pytest.raises(InvalidInputError, match=r"127\.0\.0\.2 is outside") as caught:
            first(1, url, policy=AddressPolicy(networks=(parse_network("127.0.0.1"),)))
        assert "secret" not in str(caught.value)
        with pytest.raises(BlockingIOError):
            inside.accept()


def test_the_next_address_of_a_name_is_tried(camera: RtspServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def two(host: str, port: int, *given: Any, **named: Any) -> list[Any]:
        hosts = ("127.0.0.9", "127.0.0.1") if host == "camera.test" else (host,)
        return [found for each in hosts for found in real(each, port, *given, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    assert first(1, f"rtsp://camera.test:{camera.port}/cam")
