"""The server's hand on one worker process: its socket, its memory, and the feeds in it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from lensmount.errors import LensmountError
from lensmount_server.workers.block import BLOCKS, Block, create_memory
from lensmount_server.workers.messages import MAX_MESSAGE, Order, Ping, Plan, Pong, order_bytes, read_report
from lensmount_server.workers.remote import RemoteFeed, WorkerDiedError
from lensmount_server.workers.zygote import Zygote

logger = logging.getLogger(__name__)

_PAGE = os.sysconf("SC_PAGE_SIZE")
# The zygote learns that a worker ended a moment after its socket did.
_STATUS_TRIES = 40
_STATUS_PAUSE_S = 0.05


class WorkerProcess:
    """A worker from its fork until it is gone, in one event loop.

    A `condemned` worker, in which something hangs, gets no new feeds; those that are well go on in it. One that is
    `deaf` has not read what it was told, or said what no worker says.
    """

    def __init__(self, zygote: Zygote, on_gone: Callable[[WorkerProcess], None]) -> None:
        self.pid = 0
        self.condemned = False
        self.deaf = False
        self.alone = False
        self.idle_since_s = time.monotonic()
        self._zygote = zygote
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._memory = create_memory()
        self._socket, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._feeds: dict[int, RemoteFeed] = {}
        self._hung: set[int] = set()
        self._heard_s = time.monotonic()
        self._born_bytes = 0
        self._why = ""
        self._burying: asyncio.Task[None] | None = None

    @property
    def feeds(self) -> int:
        """Feeds that are not known to hang."""
        return len(self._feeds) - len(self._hung)

    @property
    def full(self) -> bool:
        """No block is free."""
        return len(self._feeds) >= BLOCKS

    @property
    def quiet_s(self) -> float:
        """Seconds since it said anything."""
        return time.monotonic() - self._heard_s

    async def start(self) -> None:
        """Forks it. Raises UnavailableError."""
        self._socket.setblocking(False)
        try:
            with self._other:
                self.pid = await asyncio.to_thread(self._zygote.fork, self._other, self._memory)
        except LensmountError:
            self._socket.close()
            os.close(self._memory)
            raise
        self._heard_s = self.idle_since_s = time.monotonic()
        self._born_bytes = self._resident_bytes()
        self._loop.add_reader(self._socket, self._receive)

    def open(self, plan: Plan) -> RemoteFeed:
        """Starts a feed in a block of its own."""
        number = next(number for number in range(BLOCKS) if number not in self._feeds)
        feed = RemoteFeed(number, plan, Block(self._memory, number), self._send)
        self._feeds[number] = feed
        return feed

    async def close(self, feed: RemoteFeed, bound_s: float) -> None:
        """Stops a feed; one that does not stop within `bound_s` seconds counts as hung."""
        if await feed.close(bound_s):
            self._forget(feed)
        else:
            self.give_up(feed, "it does not stop")

    def give_up(self, feed: RemoteFeed, why: str) -> None:
        """Leaves a feed that hangs behind; its worker ends when nothing else is in it."""
        if feed.number in self._hung or feed.number not in self._feeds:
            return
        logger.warning("worker %d: a feed hangs (%s); others in it go on", self.pid, why)
        self._hung.add(feed.number)
        self.condemned = True
        feed.abandon(WorkerDiedError(f"its decoder hangs: {why}", fix="nothing; it is started again by itself"))

    def hung(self, longest_s: float) -> list[RemoteFeed]:
        """Feeds whose reader has not come back from FFmpeg for longer than that."""
        limit_ns = time.monotonic_ns() - int(longest_s * 1e9)
        feeds = [feed for number, feed in self._feeds.items() if number not in self._hung]
        return [feed for feed in feeds if 0 < feed.counters().busy_ns < limit_ns]

    def ping(self) -> None:
        """Has it say that it lives."""
        self._send(Ping())

    def grown_bytes(self) -> int:
        """By how much its own memory has grown since it was forked; 0 when it is gone."""
        return max(self._resident_bytes() - self._born_bytes, 0)

    def _resident_bytes(self) -> int:
        try:
            _, resident, shared, *_ = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * _PAGE

    async def kill(self, why: str) -> None:
        """Ends it at once; `why` is what its feeds are told."""
        self._why = self._why or why
        logger.warning("worker %d is ended: %s", self.pid, why)
        await asyncio.to_thread(self._zygote.kill, self.pid)

    async def end(self) -> None:
        """Lets it go: it ends by itself, or is killed."""
        self._lost()
        if self._burying is not None:
            await self._burying

    def _send(self, order: Order) -> None:
        try:
            self._socket.send(order_bytes(order))
        except BlockingIOError:
            self.deaf = True
        except OSError:
            self._lost()

    def _receive(self) -> None:
        for _ in range(64):
            try:
                data = self._socket.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost()
                return
            self._heard_s = time.monotonic()
            try:
                self._tell(data)
            except (TypeError, ValueError):  # words in place of numbers, or none at all
                self.deaf = True
                return

    def _tell(self, data: bytes) -> None:
        report = read_report(data)
        if not isinstance(report, Pong) and report.feed in self._feeds:
            self._feeds[report.feed].told(report)

    def _forget(self, feed: RemoteFeed) -> None:
        if self._feeds.pop(feed.number, None) is not None:
            feed.release()
            self.idle_since_s = time.monotonic()

    def _lost(self) -> None:
        if self._burying is None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._burying = self._loop.create_task(self._bury())

    async def _bury(self) -> None:
        """Tells the feeds how the process ended; it is killed if it has not."""
        status = await self._status()
        error = WorkerDiedError(self._why or _how(status), fix="nothing; it is started again by itself")
        for feed in list(self._feeds.values()):
            feed.fail(error)
            self._forget(feed)
        os.close(self._memory)
        self._on_gone(self)

    async def _status(self) -> int | None:
        for attempt in range(_STATUS_TRIES):
            try:
                status = await asyncio.to_thread(self._zygote.status, self.pid)
                if status is not None:
                    return status
                if attempt == _STATUS_TRIES // 2:
                    await asyncio.to_thread(self._zygote.kill, self.pid)
            except LensmountError:
                return None  # without its zygote it has ended
            await asyncio.sleep(_STATUS_PAUSE_S)
        return None


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its decoder process was ended by {signal.Signals(-status).name}"
    return "its decoder process ended"
