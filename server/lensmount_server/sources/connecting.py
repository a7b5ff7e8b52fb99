"""The connections of one source: made, watched, made again after a wait that doubles, until a recording ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lensmount.errors import LensmountError, UnavailableError
from lensmount_server.scheduling import MAX_BATCH
from lensmount_server.sources.inbox import FeedInbox
from lensmount_server.sources.model import SourceSpec
from lensmount_server.video.address import Address, parse_address
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.mailbox import DropPolicy
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.video.settings import Reconnect
from lensmount_server.workers.messages import Looking, Plan, Reading
from lensmount_server.workers.pool import WorkerPool
from lensmount_server.workers.remote import RemoteFeed, WorkerDiedError

WAITING = 4
# With NEWEST one frame computes while the next is ready; more would only age in the queue. With EVERY_FRAME a whole
# batch computes while the next one is gathered.
IN_FLIGHT = {DropPolicy.NEWEST: 2, DropPolicy.EVERY_FRAME: 2 * MAX_BATCH}
# A connection that lasted so long counts as well: crashes before it are forgotten.
WELL_S = 60.0
# A recording that brings its worker down so often in a row is given up.
CRASHES = 3


@dataclass(frozen=True)
class SourceOptions:
    """Seconds without a frame until a source counts as stalled, how videos are read, and which may be.

    By default all folders are open to sources: whoever builds a manager by hand is at home there. A server takes the
    policy of its ServeConfig, which is narrower.
    """

    stalled_s: float = 3.0
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    addresses: AddressPolicy = field(default_factory=lambda: AddressPolicy(folders=(Path("/"),)))


class Told(Protocol):
    """Who is told how the connection stands."""

    def live(self, codec: str) -> None:
        """The first frame of a connection came."""
        ...

    def lost(self, why: str) -> None:
        """A connection ended, or could not be made; it is tried again."""
        ...


@dataclass
class Connections:
    """Makes connections for the specification that it is given at that moment.

    `made` counts those that gave a frame, `crashes` those whose worker process died.
    """

    spec: Callable[[], SourceSpec]
    inbox: FeedInbox
    pool: WorkerPool
    options: SourceOptions
    told: Told
    made: int = 0
    crashes: int = 0
    _crashed: int = 0
    _again: asyncio.Event = field(default_factory=asyncio.Event)

    def again(self) -> None:
        """Leave this connection and make another one at once, because the specification has changed."""
        self._again.set()

    async def run(self) -> None:
        """Until a recording ends. Raises the LensmountError of what can never work."""
        failures = 0
        while True:
            address, made, started_s = check(self.spec(), self.options), self.made, time.monotonic()
            self._again.clear()
            try:
                error = await self._connect(address)
            except UnavailableError as unavailable:
                error = unavailable
            if error is None and not self._again.is_set():
                return
            if error is None:
                continue
            self._judge(error, address, time.monotonic() - started_s)
            failures = 1 if self.made > made else failures + 1
            self.told.lost(str(error))
            if not isinstance(error, WorkerDiedError) or self._crashed > 1:
                await self._wait(delay_s(self.spec().reconnect, failures))

    async def _connect(self, address: Address) -> LensmountError | None:
        """One connection: the error that ended it, None for the end of a recording or when `again` was called."""
        try:
            async with self.pool.feed(self._plan(address), alone=self._crashed > 0) as feed:
                self.inbox.attach(feed)
                return await self._follow(feed)
        finally:
            self.inbox.detach()

    async def _follow(self, feed: RemoteFeed) -> LensmountError | None:
        again = asyncio.create_task(self._again.wait())
        try:
            first: list[asyncio.Future[Any]] = [feed.began, feed.ended, again]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if feed.began.done():
                self.made += 1
                self.told.live(feed.codec)
            await asyncio.wait(first[1:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            again.cancel()
        return feed.ended.result() if feed.ended.done() else None

    def _judge(self, error: LensmountError, address: Address, lasted_s: float) -> None:
        """Raises an error that another try would not mend."""
        if lasted_s > WELL_S:
            self._crashed = 0
        if isinstance(error, WorkerDiedError):
            self.crashes += 1
            self._crashed += 1
            if not address.live and self._crashed >= CRASHES:
                fix = "play it with ffplay to see what is wrong with it"
                raise UnavailableError(f"{error.message}, {CRASHES} times in a row", field="url", fix=fix)
        elif not isinstance(error, UnavailableError) or not address.live:
            raise error

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._again.wait(), seconds)
        except TimeoutError:
            return

    def _plan(self, address: Address) -> Plan:
        spec = self.spec()
        reading = Reading(address, spec.loop, spec.pace, spec.effort, self.options.reader)
        waiting = 1 if spec.policy is DropPolicy.NEWEST else spec.queue_size or WAITING
        in_flight, counted = IN_FLIGHT[spec.policy], (self.inbox.next_index, self.inbox.last_pts_ns)
        return Plan(reading, looking(spec), spec.policy, waiting, in_flight, *counted)


def check(spec: SourceSpec, options: SourceOptions) -> Address:
    """The address of a source. Raises InvalidInputError for a specification that can never work here."""
    spec.check()
    return parse_address(spec.url, options.addresses, spec.transport)


def looking(spec: SourceSpec) -> Looking:
    """How the frames of a source are looked at."""
    rates = tuple([want.max_fps for want in spec.wants])
    return Looking(rates, rotation=spec.rotation, region=spec.region, gate=spec.gate)


def delay_s(reconnect: Reconnect, failures: int) -> float:
    """Seconds to wait after so many failures in a row, from 1; the last half is random, so that cameras spread."""
    delay_ms = min(reconnect.longest_ms, reconnect.first_ms * 2.0 ** min(failures - 1, 30))
    return delay_ms / 1e3 * random.uniform(0.5, 1.0)  # noqa: S311 - nobody gains by guessing it
