"""The worker processes of a server: where a feed runs, and a watch that ends what hangs, dies or grows.

Each feed has a process of its own until there are `most` of them; then several share one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from lensmount.errors import UnavailableError
from lensmount_server.workers.messages import Plan
from lensmount_server.workers.process import WorkerProcess
from lensmount_server.workers.remote import RemoteFeed
from lensmount_server.workers.zygote import Zygote

logger = logging.getLogger(__name__)

# What clients push is decoded apart from the cameras.
Group = Literal["sources", "clients"]


@dataclass(frozen=True)
class PoolOptions:
    """Limits of a group's workers.

    `most` processes share all feeds, but for those that run alone. A reader that is in FFmpeg for longer than `hang_s`
    hangs; a worker that says nothing for `silent_s`, or grows by more than `memory_mib`, is ended. One
    without feeds is kept for `idle_s`. A feed has `stop_s` to stop.
    """

    most: int = 16
    hang_s: float = 25.0
    silent_s: float = 10.0
    memory_mib: int = 1024
    idle_s: float = 10.0
    stop_s: float = 3.0
    watch_s: float = 1.0


class WorkerPool:
    """Opens feeds in worker processes. It belongs to one event loop; close it there."""

    def __init__(self, zygote: Zygote | None = None, options: PoolOptions | None = None) -> None:
        self._own = zygote is None
        self._zygote = zygote or Zygote()
        self._options = options or PoolOptions()
        self._groups: dict[Group, list[WorkerProcess]] = {"sources": [], "clients": []}
        self._placing = asyncio.Lock()
        self._starting: set[asyncio.Task[WorkerProcess]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._watching = asyncio.create_task(self._watch(), name="worker-watch")

    @asynccontextmanager
    async def feed(self, plan: Plan, group: Group = "sources", *, alone: bool = False) -> AsyncIterator[RemoteFeed]:
        """A feed for the duration of a `with` block, in a process of its own if it shall be `alone`.

        Raises UnavailableError when no process can be started.
        """
        async with self._placing:
            worker = self._choose(group, alone=alone) or await self._start(group)
            worker.alone = alone
            feed = worker.open(plan)
        try:
            yield feed
        finally:
            closing = asyncio.create_task(worker.close(feed, self._options.stop_s))
            self._closing.add(closing)  # it goes on, whatever becomes of who waits for it
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those that run."""
        return [worker for workers in self._groups.values() for worker in workers]

    async def close(self) -> None:
        """Ends all of them, and whatever feeds are left."""
        self._watching.cancel()
        await asyncio.gather(self._watching, *self._starting, *self._closing, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self.workers))
        if self._own:
            await asyncio.to_thread(self._zygote.close)

    def _choose(self, group: Group, *, alone: bool) -> WorkerProcess | None:
        """The worker with the fewest feeds; None where a new one shall be started."""
        usable = [
            each for each in self._groups[group] if not (each.condemned or each.full or (each.alone and each.feeds))
        ]
        empty = next((each for each in usable if not each.feeds), None)
        if empty is not None:
            return empty
        if alone or len(usable) < self._options.most:
            return None
        return min(usable, key=lambda each: each.feeds)

    async def _start(self, group: Group) -> WorkerProcess:
        """A new worker; whoever is cancelled here leaves one that has nothing to do."""
        starting = asyncio.create_task(self._fork(group))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        return await asyncio.shield(starting)

    async def _fork(self, group: Group) -> WorkerProcess:
        if not self._zygote.alive and self._own:
            logger.error("the process that starts workers has ended; a new one is started")
            self._zygote = await asyncio.to_thread(Zygote)
        worker = WorkerProcess(self._zygote, self._groups[group].remove)
        await worker.start()
        self._groups[group].append(worker)
        return worker

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._options.watch_s)
            for worker in self.workers:
                with suppress(UnavailableError):  # without its zygote a worker ends by itself
                    await self._look_after(worker)

    async def _look_after(self, worker: WorkerProcess) -> None:
        options = self._options
        for feed in worker.hung(options.hang_s):
            worker.give_up(feed, f"FFmpeg has not come back for {options.hang_s:g} s")
        if worker.feeds:
            worker.idle_since_s = time.monotonic()
            worker.ping()
        memory_mib = worker.grown_bytes() >> 20
        if memory_mib > options.memory_mib:
            await worker.kill(f"its decoder process took {memory_mib} MiB, more than {options.memory_mib}")
        elif worker.deaf or (worker.feeds and worker.quiet_s > options.silent_s):
            await worker.kill("its decoder process did not answer")
        elif worker.condemned and not worker.feeds:
            await worker.kill("its decoder hung")
        elif not worker.feeds and time.monotonic() - worker.idle_since_s > options.idle_s:
            await worker.end()
