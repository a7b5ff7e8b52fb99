"""Follows the registry's journal: what other servers change takes effect here, and watchers are told.

The journal is read some times a second, and at once after a change of this server's own. An
alias that another server set is applied here within MAX_LAG_S of its being seen: its adapter
is loaded first while that is quick; if it is not, the alias moves on nevertheless, and frames
wait for the adapter. Nothing answers on with a version that the operator believes gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress

from lensmount.errors import LensmountError, UnavailableError
from lensmount_server.firsts import FirstAnswer
from lensmount_server.frames import VersionId
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Entry, Filter, Kind, Registry
from lensmount_server.residency import Residency

log = logging.getLogger(__name__)

POLL_S = 0.5
MAX_LAG_S = 1.0
BATCH = 500
BEAT_S = 30.0
# What is not in the journal and waits for a watcher.
MAX_WAITING = 100
# A version that a stream asked for stays noted so long, or while a stream asks for it.
NOTED_S = 10.0

POINTS = (Kind.ALIAS_SET, Kind.ROLLED_BACK)
GONE = (Kind.DELETED, Kind.COLLECTED)
CHECKED = (Kind.REGISTERED, Kind.REGISTERED_AGAIN)


class Watcher:
    """One who is told of every change to these tasks, all when empty."""

    def __init__(self, tasks: Collection[str]) -> None:
        self.tasks = tasks
        self.news = asyncio.Event()
        self._firsts: deque[FirstAnswer] = deque(maxlen=MAX_WAITING)

    def add(self, first: FirstAnswer) -> None:
        """Have a first answer wait for the change that it answers to be told."""
        if not self.tasks or first.version.task in self.tasks:
            self._firsts.append(first)
            self.news.set()

    def due(self, seq: int) -> list[FirstAnswer]:
        """The first answers to changes up to number `seq`, which were told."""
        found = [first for first in self._firsts if first.seq <= seq]
        for first in found:
            self._firsts.remove(first)
        return found


class Follower:
    """Keeps this server's mounts as the registry says; lives on the event loop.

    `on_gone` is told of a task of which no version is left, `on_turned` of each alias that another server set: its
    name, the version and the number of the change.
    """

    def __init__(self, registry: Registry, mounts: Mounts, residency: Residency) -> None:
        self._registry = registry
        self._mounts = mounts
        self._residency = residency
        self._watchers: set[Watcher] = set()
        self._kicked = asyncio.Event()
        self._turn_taking = asyncio.Lock()
        self._noted: dict[tuple[str, int], float] = {}
        self._noting = asyncio.Lock()
        self._beaten = time.monotonic()
        self._running: asyncio.Task[None] | None = None
        self._ended = False
        self._dismissed = False
        self.seq = 0
        self._behind_since: float | None = None
        self.on_gone: Callable[[str], None] = lambda _task: None
        self.on_turned: Callable[[str, VersionId, int], object] = lambda _alias, _version, _seq: None

    @property
    def behind_s(self) -> float:
        """For how long the registry could not be read; 0.0 while it can."""
        return 0.0 if self._behind_since is None else time.monotonic() - self._behind_since

    async def start(self) -> int:
        """Learn what every alias points at, without loading anything, and follow from there; returns how many."""
        await self.close()
        pointed, self.seq = await asyncio.to_thread(self._registry.pointed)
        self._mounts.replace(pointed)
        self._ended = self._dismissed = False
        self._running = asyncio.create_task(self._run(), name="follow-registry")
        self._running.add_done_callback(_report)
        return len(pointed)

    async def close(self) -> None:
        """Follow no more; watches end."""
        self._ended = True
        self._kicked.set()
        self.dismiss()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    def kick(self) -> None:
        """Something was written: look at once."""
        self._kicked.set()

    async def note(self, numbers: Collection[tuple[str, int]]) -> None:
        """Have no server collect these versions while streams here ask for them. Raises NotFoundError."""
        async with self._noting:
            new = [number for number in numbers if number not in self._noted]
            if new:
                await asyncio.to_thread(self._registry.use, new)
            self._noted.update(dict.fromkeys(numbers, time.monotonic()))

    def tell_first_answer(self, first: FirstAnswer) -> None:
        """Tell watchers of what is not in the journal."""
        for watcher in self._watchers:
            watcher.add(first)

    def dismiss(self) -> None:
        """End all watches."""
        self._dismissed = True
        self._wake()

    @asynccontextmanager
    async def watching(
        self, tasks: Collection[str] = (), after: int | None = None
    ) -> AsyncIterator[AsyncIterator[Entry | FirstAnswer]]:
        """Entries of the journal after number `after`, or from now on, once they took effect here; in order.

        In between, first answers, each after the change that it answers. Ends when watches are dismissed. Reading
        raises UnavailableError.
        """
        watcher, seq = Watcher(tasks), self.seq if after is None else after
        self._watchers.add(watcher)
        try:
            async with aclosing(self._news(watcher, seq)) as news:
                yield news
        finally:
            self._watchers.discard(watcher)

    async def _news(self, watcher: Watcher, seq: int) -> AsyncGenerator[Entry | FirstAnswer, None]:
        while not self._dismissed:
            watcher.news.clear()
            now = self.seq
            entries = await self._read(seq, now, watcher.tasks)
            for entry in entries:
                seq = entry.seq
                yield entry
            firsts = watcher.due(now if len(entries) < BATCH else seq)
            for first in firsts:
                yield first
            if not (entries or firsts):
                await watcher.news.wait()

    async def _read(self, seq: int, now: int, tasks: Collection[str]) -> list[Entry]:
        """The next entries among those that took effect here, which are those until `now`."""
        if seq >= now:
            return []
        entries = await asyncio.to_thread(self._registry.since, seq, BATCH, tasks)
        return [entry for entry in entries if entry.seq <= now]

    async def _run(self) -> None:
        while not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._kicked.wait()
            self._kicked.clear()
            try:
                await self.catch_up()
                await self._keep_alive()
                self._recovered()
            except UnavailableError as error:
                self._fell_behind(error)
                await asyncio.sleep(POLL_S)

    async def catch_up(self) -> None:
        """Apply what was written until now. Raises UnavailableError."""
        async with self._turn_taking:
            while entries := await asyncio.to_thread(self._registry.since, self.seq, BATCH):
                await self._apply(entries)
                self.seq = entries[-1].seq
                self._wake()

    async def _apply(self, entries: list[Entry]) -> None:
        last = {(entry.version.task, entry.alias): entry for entry in entries if entry.alias}
        await asyncio.gather(*(self._turn(entry) for entry in last.values()))
        for entry in entries:
            if entry.kind in CHECKED:
                self._residency.lift(entry.version.content_hash)
            if entry.kind in GONE:
                self._mounts.delete(entry.version)
                self._noted.pop((entry.version.task, entry.version.version), None)
        lessened = (entry.version.task for entry in entries if entry.kind in (Kind.ALIAS_DELETED, *GONE))
        for task in dict.fromkeys(lessened):
            if not self._mounts.known(task) and not await asyncio.to_thread(self._versions, task):
                self.on_gone(task)

    def _versions(self, task: str) -> bool:
        return bool(self._registry.page(1, wanted=Filter(task)))

    async def _turn(self, entry: Entry) -> None:
        task, alias = entry.version.task, entry.alias
        if entry.seq <= self._mounts.set_by(task, alias):
            return  # this server's own doing
        if entry.kind is Kind.ALIAS_DELETED:
            self._mounts.take_down(task, alias, entry.seq)
        elif entry.kind in POINTS:
            with self._mounts.leases() as held:
                held.hold(entry.version)
                if self._mounts.followed(task, alias):
                    await self._load(entry.version)
                if self._mounts.turn(alias, entry.version, entry.seq):
                    self.on_turned(alias, entry.version, entry.seq)
                    log.info("%s@%s: version %d answers, as another server wrote", task, alias, entry.version.version)

    async def _load(self, version: VersionId) -> None:
        try:
            async with asyncio.timeout(MAX_LAG_S):
                await self._residency.load(version)
        except (LensmountError, TimeoutError) as error:
            log.warning("%s:%d is not in memory yet: %s", version.task, version.version, error or "it takes longer")

    async def _keep_alive(self) -> None:
        now = time.monotonic()
        async with self._noting:
            pinned = self._mounts.hot.pinned
            old = [number for number, since in self._noted.items() if number not in pinned and now - since > NOTED_S]
            if old:
                await asyncio.to_thread(self._registry.unuse, old)
            for number in old:
                self._noted.pop(number, None)
        if now - self._beaten > BEAT_S:
            self._beaten = now
            await asyncio.to_thread(self._registry.beat)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.news.set()

    def _fell_behind(self, error: UnavailableError) -> None:
        if self._behind_since is None:
            self._behind_since = time.monotonic()
            log.error("changes by other servers are not seen until the registry is back: %s", error)

    def _recovered(self) -> None:
        if self._behind_since is not None:
            log.warning("the registry is back after %.1f s", time.monotonic() - self._behind_since)
            self._behind_since = None


def _report(running: asyncio.Task[None]) -> None:
    if not running.cancelled() and (error := running.exception()) is not None:
        log.critical("this server follows the registry no more", exc_info=error)
