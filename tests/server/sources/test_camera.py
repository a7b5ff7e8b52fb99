"""Cameras that come, go, and fall silent: a real RTSP server, and peers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from answers import Echo, until
from lensmount_server.frames import Want
from lensmount_server.hub import Hub, Subscription
from lensmount_server.sources.connecting import SourceOptions
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.video.reader import ReaderOptions
from lensmount_server.video.settings import Reconnect
from lensmount_server.workers.pool import PoolOptions, WorkerPool
from rtsp_server import RtspServer, needs_rtsp
from zygotes import shared_zygote

WANTS = (Want("defect"),)
QUICK = SourceOptions(stalled_s=1.0, reader=ReaderOptions(silence_s=1.0))
CALM = SourceOptions(stalled_s=1.0, reader=ReaderOptions(silence_s=6.0))


@asynccontextmanager
async def watched(
    url: str, options: SourceOptions, limits: PoolOptions | None = None
) -> AsyncIterator[tuple[SourceManager, Subscription]]:
    hub = Hub()
    pool = WorkerPool(shared_zygote(), limits)
    manager = SourceManager(Echo(), hub, pool, options)
    with hub.subscribe() as subscription:
        await manager.add(SourceSpec("camera", url, WANTS, reconnect=Reconnect(100, 500)))
        try:
            yield manager, subscription
        finally:
            await manager.close()
            await pool.close()


async def reach(subscription: Subscription, state: SourceState) -> SourceStatus:
    async with asyncio.timeout(90):
        async for item in subscription:
            if isinstance(item.message, SourceStatus) and item.message.state is state:
                return item.message
    raise AssertionError("the subscription ended")


async def answered_more(manager: SourceManager, frames: int) -> None:
    goal = manager.get("camera").account.answered + frames
    await until(lambda: manager.get("camera").account.answered >= goal)


@contextmanager
def peer(*, answers: bool) -> Iterator[str]:
    """Something at an address that is no camera: it accepts and says nothing, or refuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"rtsp://me:secret@127.0.0.1:{server.getsockname()[1]}/cam"
        if answers:
            yield url
    if not answers:
        yield url


@pytest.mark.parametrize(("answers", "reason"), [(True, "no RTSP answer"), (False, "refused")])
async def test_a_camera_that_is_not_there_is_tried_again(answers: bool, reason: str) -> None:
    with peer(answers=answers) as url:
        async with watched(url, QUICK) as (manager, subscription):
            status = await reach(subscription, SourceState.RECONNECTING)
            assert reason in status.reason
            assert "secret" not in status.reason
            assert status.account.decoded == 0
            assert manager.get("camera").state is SourceState.RECONNECTING


def babble(listener: socket.socket, opening: bytes) -> None:
    """Answers whoever comes with `opening` and random bytes, until the listener is closed."""
    noise = random.Random(1)
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(opening + noise.randbytes(100_000))


@pytest.mark.parametrize(
    "opening", [b"", b"RTSP/1.0 200 OK\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 999999\r\n\r\n"]
)
async def test_garbage_is_no_camera_and_hurts_nobody(opening: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=babble, args=(listener, opening))
        thread.start()
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/cam"
        async with watched(url, QUICK) as (manager, subscription):
            status = await reach(subscription, SourceState.RECONNECTING)
            assert "check that it is up" in status.reason
            await reach(subscription, SourceState.RECONNECTING)
            status = await manager.pause("camera")
            assert (status.crashes, status.account.decoded, status.state) == (0, 0, SourceState.PAUSED)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_removing_a_camera_that_does_not_answer_takes_no_longer_than_allowed() -> None:
    options = SourceOptions(reader=ReaderOptions(silence_s=8.0))
    with peer(answers=True) as url:
        async with watched(url, options, PoolOptions(stop_s=0.2)) as (manager, _):
            await asyncio.sleep(0.2)
            started = time.monotonic()
            await manager.remove("camera")
            assert time.monotonic() - started < 6  # before FFmpeg's own time was up


@pytest.mark.rtsp
class TestRealCamera:
    @pytest.fixture(autouse=True)
    def _server_or_skip(self) -> None:
        needs_rtsp()

    async def test_killed_and_back(self) -> None:
        with RtspServer() as server:
            async with watched(server.url, CALM) as (manager, subscription):
                await reach(subscription, SourceState.LIVE)
                await answered_more(manager, 20)
                server.kill()
                assert "ended" in (await reach(subscription, SourceState.RECONNECTING)).reason
                before = manager.get("camera").account
                server.start()
                live = await reach(subscription, SourceState.LIVE)
                assert live.reason == ""
                await answered_more(manager, 20)
                after = manager.get("camera").account
                assert after.decoded >= before.decoded + 20
                assert (manager.get("camera").width, manager.get("camera").height) == (320, 240)

    async def test_frozen_and_back(self) -> None:
        with RtspServer() as server:
            async with watched(server.url, CALM) as (manager, subscription):
                await reach(subscription, SourceState.LIVE)
                await answered_more(manager, 5)
                server.freeze()
                stalled = await reach(subscription, SourceState.STALLED)
                assert "no frame for 1 s" in stalled.reason
                started = time.monotonic()
                assert "nothing came" in (await reach(subscription, SourceState.RECONNECTING)).reason
                assert time.monotonic() - started < 60
                server.thaw()
                await reach(subscription, SourceState.LIVE)
                await answered_more(manager, 5)

    async def test_a_short_pause_is_a_stall_only(self) -> None:
        with RtspServer() as server:
            options = SourceOptions(stalled_s=1.0, reader=ReaderOptions(silence_s=60.0))
            async with watched(server.url, options) as (manager, subscription):
                await reach(subscription, SourceState.LIVE)
                server.freeze()
                await reach(subscription, SourceState.STALLED)
                server.thaw()
                await reach(subscription, SourceState.LIVE)
                await answered_more(manager, 5)

    async def test_frames_keep_their_count_over_a_reconnection(self) -> None:
        with RtspServer() as server:
            async with watched(server.url, CALM) as (manager, _):
                await answered_more(manager, 10)
                server.kill()
                server.start()
                await answered_more(manager, 30)
                account = manager.get("camera").account
                assert account.decoded == account.answered + account.dropped.frames + account.in_flight

    async def test_a_wrong_password_fails_for_good(self) -> None:
        with RtspServer(login="me:secret") as server:
            async with watched(f"rtsp://me:wrongword@127.0.0.1:{server.port}/cam", CALM) as (_, subscription):
                failed = await reach(subscription, SourceState.FAILED)
                assert "401" in failed.reason
                assert "wrongword" not in failed.reason
