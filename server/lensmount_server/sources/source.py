"""One source: its state, the stream that has its frames answered, and its connections."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from lensmount.errors import LensmountError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Want
from lensmount_server.hub import Hub
from lensmount_server.sources.connecting import IN_FLIGHT, Connections, SourceOptions, looking
from lensmount_server.sources.inbox import FeedInbox
from lensmount_server.sources.meter import Meter
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import Answerer, Stream
from lensmount_server.workers.pool import WorkerPool
from lensmount_server.workers.remote import Wish

logger = logging.getLogger(__name__)

# Keeps what answers these wants ready while the context is open.
Pin = Callable[[Sequence[Want]], AbstractContextManager[None]]
_TICK_S = 0.25
_AT_WORK = (SourceState.CONNECTING, SourceState.LIVE, SourceState.STALLED, SourceState.RECONNECTING)


class SourceAnswerer(Answerer, Protocol):
    """What a source needs of the catalog."""

    def preprocessings(self, wants: Sequence[Want]) -> tuple[Preprocessing, ...]:
        """How frames are prepared for what answers `wants` now."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What all sources of a server share."""

    answerer: SourceAnswerer
    hub: Hub
    pool: WorkerPool
    options: SourceOptions
    pin: Pin


class Source:
    """A source from `start` to `stop`. Its account goes on over pauses and updates."""

    def __init__(self, spec: SourceSpec, around: Surroundings) -> None:
        self.spec = spec
        self._around = around
        self._inbox = FeedInbox(self._wish)
        self._connections = Connections(lambda: self.spec, self._inbox, around.pool, around.options, self)
        self._stream = self._make_stream()
        self._successor: tuple[Stream, ExitStack] | None = None
        self._meter = Meter()
        self._state = SourceState.CONNECTING
        self._state_time_ns = time.time_ns()
        self._reason = ""
        self._codec = ""
        self._reading: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def status(self) -> SourceStatus:
        """How it is doing now."""
        counters = self._inbox.counters()
        return SourceStatus(
            self.spec,
            self._state,
            self._inbox.account.state(),
            self._why(),
            self._meter.fps() if self._state is SourceState.LIVE else 0.0,
            counters.width,
            counters.height,
            self._codec,
            counters.skipped,
            self._connections.made,
            self._connections.crashes,
            self._state_time_ns,
            counters.frame_time_ns,
        )

    def start(self) -> None:
        """Starts it, or leaves it paused, and announces it."""
        if self.spec.paused:
            self._become(SourceState.PAUSED)
            return
        self._inbox.open()
        self._become(SourceState.CONNECTING)
        self._reading = asyncio.create_task(self._connections.run(), name=f"connections-{self.spec.name}")
        self._reading.add_done_callback(lambda _: self._inbox.end())
        self._task = asyncio.create_task(self._run(self._reading), name=f"source-{self.spec.name}")

    async def stop(self) -> None:
        """Ends it, whatever it is doing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def pause(self) -> None:
        """Leaves the camera; frames under way are answered."""
        self.spec = replace(self.spec, paused=True)
        if self._task is not None and self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._task])
        self._task = self._reading = None
        self._become(SourceState.PAUSED)

    def resume(self) -> None:
        """Goes on after a pause, a failure or an end."""
        self.spec = replace(self.spec, paused=False)
        if self._task is None or self._task.done():
            self._stream = self._make_stream()
            self.start()

    async def update(self, spec: SourceSpec) -> None:
        """Becomes what `spec` says. A connection that stays the same is kept. Raises as `pin` does."""
        before = self.spec
        if spec.paused != before.paused or self._state not in _AT_WORK:
            await self.stop()
            self.spec = spec
            self._stream = self._make_stream()
            self.start()
            return
        pins = ExitStack()
        if (spec.wants, spec.terms, spec.policy) != (before.wants, before.terms, before.policy):
            pins.enter_context(self._around.pin(spec.wants))
            self.spec = spec
            self._succeed(pins)
        self.spec = spec
        if looking(spec) != looking(before):
            self._inbox.look(looking(spec))
        if spec.reading != before.reading:
            self._connections.again()
        self._around.hub.announce(self.status())

    def live(self, codec: str) -> None:
        """The first frame of a connection came."""
        self._codec = codec
        self._become(SourceState.LIVE)

    def lost(self, why: str) -> None:
        """A connection ended, or could not be made; it is tried again."""
        self._become(SourceState.RECONNECTING, why)

    def _wish(self) -> Wish:
        around = self._around
        return Wish(around.answerer.preprocessings(self.spec.wants), around.hub.wants_frames(self.spec.name))

    def _make_stream(self) -> Stream:
        spec = self.spec
        in_flight = IN_FLIGHT[spec.policy]
        answerer = self._around.answerer
        return Stream(
            spec.name, self._inbox, answerer, spec.wants, terms=spec.terms, in_flight=in_flight, tolerant=True
        )

    def _succeed(self, pins: ExitStack) -> None:
        """Has another stream go on with the frames when those under way are answered."""
        if self._successor is not None:
            self._successor[1].close()
        self._successor = self._make_stream(), pins
        self._stream.finish()

    async def _run(self, reading: asyncio.Task[None]) -> None:
        ticking = asyncio.create_task(self._tick())
        try:
            await self._answer()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()
                self._become(SourceState.ENDED)
        except LensmountError as error:
            self._become(SourceState.FAILED, str(error))
        except Exception:  # a defect must not leave a source that looks alive
            logger.exception("source %s failed", self.spec.name)
            self._become(SourceState.FAILED, "a defect of the server; see its log")
        finally:
            await _end([reading, ticking])

    async def _answer(self) -> None:
        pins = ExitStack()
        try:
            pins.enter_context(self._around.pin(self.spec.wants))
            while True:
                async with aclosing(self._stream.results()) as results:
                    async for result in results:
                        self._around.hub.publish(result)
                if self._successor is None:
                    return
                self._successor[0].follow(self._stream)
                pins.close()
                (self._stream, pins), self._successor = self._successor, None
        finally:
            pins.close()
            if self._successor is not None:
                self._successor[1].close()
                self._successor = None

    async def _tick(self) -> None:
        while True:
            account = self._inbox.account.state()
            self._meter.read(time.monotonic(), account.decoded)
            idle_s = 0.0 if account.in_flight else self._meter.idle_s()  # frames that wait are not the camera's fault
            stalled_s = self._around.options.stalled_s
            if self._state is SourceState.LIVE and idle_s > stalled_s:
                self._become(SourceState.STALLED, f"no frame for {stalled_s:g} s")
            elif self._state is SourceState.STALLED and not idle_s:
                self._become(SourceState.LIVE)
            await asyncio.sleep(_TICK_S)

    def _become(self, state: SourceState, reason: str = "") -> None:
        if state is not self._state or reason != self._reason:
            self._state, self._reason, self._state_time_ns = state, reason, time.time_ns()
            level = logging.INFO if not reason else logging.WARNING
            logger.log(level, "source %s: %s%s", self.spec.name, state.name.lower(), f", {reason}" if reason else "")
        self._around.hub.announce(self.status())

    def _why(self) -> str:
        if self._state is SourceState.LIVE and self._stream.last_error is not None:
            return f"frames failed, the last one with: {self._stream.last_error}"
        return self._reason


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
