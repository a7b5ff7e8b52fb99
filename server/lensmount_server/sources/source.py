"""One source: connected, watched, connected again, its frames answered and published."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from pathlib import Path

from lensmount.errors import LensmountError, UnavailableError
from lensmount_server.frames import Frame, Want
from lensmount_server.hub import Hub
from lensmount_server.sources.backoff import Backoff
from lensmount_server.sources.feed import Feed
from lensmount_server.sources.meter import Meter
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import Answerer, Stream
from lensmount_server.video.address import parse_address
from lensmount_server.video.mailbox import DropPolicy, Mailbox
from lensmount_server.video.open import open_reader
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.video.reader import ReaderOptions
from lensmount_server.video.timeline import Timeline

logger = logging.getLogger(__name__)

# Keeps what answers these wants ready while the context is open.
Pin = Callable[[Sequence[Want]], AbstractContextManager[None]]
_TICK_S = 0.25
# With NEWEST one frame computes while the next is ready; more would only age in the queue.
_IN_FLIGHT = {DropPolicy.NEWEST: 2, DropPolicy.EVERY_FRAME: 4}
_MAILBOX = {DropPolicy.NEWEST: 1, DropPolicy.EVERY_FRAME: 4}


@dataclass(frozen=True)
class SourceOptions:
    """Seconds without a frame until a source counts as stalled, seconds to wait for its thread, and the rest.

    By default all folders are open to sources: whoever builds a manager by hand is at home there. A server takes the
    policy of its ServeConfig, which is narrower.
    """

    stalled_s: float = 3.0
    stop_s: float = 3.0
    backoff: Backoff = field(default_factory=Backoff)
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    addresses: AddressPolicy = field(default_factory=lambda: AddressPolicy(folders=(Path("/"),)))


class Source:
    """A running source. Raises InvalidInputError for a specification that can never work."""

    def __init__(self, spec: SourceSpec, answerer: Answerer, hub: Hub, options: SourceOptions, pin: Pin) -> None:
        spec.check()
        self.spec = spec
        self._address = parse_address(spec.url, options.addresses, spec.transport)
        self._hub = hub
        self._options = options
        self._pin = pin
        self._mailbox = Mailbox(spec.policy, _MAILBOX[spec.policy])
        self._stream = Stream(
            spec.name,
            self._mailbox,
            answerer,
            spec.wants,
            terms=spec.terms,
            in_flight=_IN_FLIGHT[spec.policy],
            tolerant=True,
        )
        self._timeline = Timeline()
        self._meter = Meter()
        self._state = SourceState.CONNECTING
        self._reason = ""
        self._size = (0, 0)
        self._connected = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def status(self) -> SourceStatus:
        """How it is doing now."""
        width, height = self._size
        fps = self._meter.fps() if self._state is SourceState.LIVE else 0.0
        return SourceStatus(self.spec, self._state, self._mailbox.account.state(), self._why(), fps, width, height)

    def start(self) -> None:
        """Starts it and announces it."""
        self._hub.announce(self.status())
        self._task = asyncio.create_task(self._run(), name=f"source-{self.spec.name}")

    async def stop(self) -> None:
        """Ends it, whatever it is doing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        reading, ticking = asyncio.create_task(self._read()), asyncio.create_task(self._tick())
        try:
            with self._pin(self.spec.wants):
                async with aclosing(self._stream.results()) as results:
                    async for result in results:
                        self._hub.publish(result)
            await reading
            self._become(SourceState.ENDED)
        except LensmountError as error:
            self._become(SourceState.FAILED, str(error))
        except Exception:  # a defect must not leave a source that looks alive
            logger.exception("source %s failed", self.spec.name)
            self._become(SourceState.FAILED, "a defect of the server; see its log")
        finally:
            await _end([reading, ticking])

    async def _read(self) -> None:
        """Reads until a file ends. Raises the LensmountError of what can never work."""
        failures = 0
        try:
            while True:
                try:
                    return await self._connect()
                except UnavailableError as error:
                    if not self._address.live:
                        raise
                    failures = 1 if self._connected else failures + 1
                    self._become(SourceState.RECONNECTING, str(error))
                await asyncio.sleep(self._options.backoff.delay_s(failures))
        finally:
            self._mailbox.close()

    async def _connect(self) -> None:
        self._connected = False
        reader = open_reader(
            self._address,
            loop=self.spec.loop,
            pace=self.spec.pace,
            options=self._options.reader,
            timeline=self._timeline,
        )
        feed = Feed(self.spec.name, reader, self._mailbox, self._on_frame)
        feed.start()
        try:
            await feed.end()
        finally:
            await feed.stop(self._options.stop_s)

    def _on_frame(self, frame: Frame) -> None:
        self._size = (frame.picture.width, frame.picture.height)
        if not self._connected:
            self._connected = True
            self._loop.call_soon_threadsafe(self._go_live)

    def _go_live(self) -> None:
        if self._state in (SourceState.CONNECTING, SourceState.RECONNECTING):
            self._become(SourceState.LIVE)

    async def _tick(self) -> None:
        while True:
            account = self._mailbox.account.state()
            self._meter.read(time.monotonic(), account.decoded)
            idle_s = 0.0 if account.in_flight else self._meter.idle_s()  # frames that wait are not the camera's fault
            if self._state is SourceState.LIVE and idle_s > self._options.stalled_s:
                self._become(SourceState.STALLED, f"no frame for {self._options.stalled_s:g} s")
            elif self._state is SourceState.STALLED and not idle_s:
                self._become(SourceState.LIVE)
            await asyncio.sleep(_TICK_S)

    def _become(self, state: SourceState, reason: str = "") -> None:
        if state is not self._state or reason != self._reason:
            self._state, self._reason = state, reason
            self._hub.announce(self.status())

    def _why(self) -> str:
        if self._state is SourceState.LIVE and self._stream.last_error is not None:
            return f"frames failed, the last one with: {self._stream.last_error}"
        return self._reason


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
