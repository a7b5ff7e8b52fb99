"""Adapters from the outside to the engine: register, promote, load.

What is on disk (registry), what an alias points at (mounts) and what is in memory
(residency) meet here and nowhere else. A registration or promotion that was begun is
finished even when its caller goes away in the middle: disk and memory never tell two
different stories. A frame that wants an adapter which is not in memory waits here, before
it is queued; frames for other tasks pass it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lensmount.errors import NotFoundError
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.archive import unpack
from lensmount_adapters.package import read_content
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Answer, Frame, VersionId, Want
from lensmount_server.gate import Check, golden_check, inspect, passed
from lensmount_server.mounts import ColdError, Leases, Mounted, Mounts
from lensmount_server.registry import Record, Registry
from lensmount_server.residency import Residency
from lensmount_server.scheduler import Scheduler
from lensmount_server.scheduling import ANY_TIME, Terms

log = logging.getLogger(__name__)

T = TypeVar("T")

# Writes an upload to a path, and says how that was checked.
Receive = Callable[[Path], Awaitable[Check]]


@dataclass(frozen=True)
class Registration:
    """A registered version and the checks that it passed; `is_new` unless its content was there before."""

    record: Record
    checks: tuple[Check, ...]
    is_new: bool


@dataclass(frozen=True)
class Promotion:
    """An alias that was set: from `previous` (0: none) to `version`, within `switch_ms`."""

    task: str
    alias: str
    version: int
    previous: int
    switch_ms: float


class Catalog:
    """The adapters of this server; lives on the event loop, works on disk in threads."""

    def __init__(self, registry: Registry, mounts: Mounts, scheduler: Scheduler) -> None:
        self.registry = registry
        self._mounts = mounts
        self._scheduler = scheduler
        self._promoting = asyncio.Lock()
        self._begun: set[asyncio.Task[Any]] = set()
        engine = scheduler.engine
        self.residency = Residency(mounts.hot, engine, self._read, engine.backbone.device)

    async def load_aliases(self) -> None:
        """Learn what every alias points at. Nothing is loaded: an adapter is, when a stream or frame asks for it."""
        pointed = await asyncio.to_thread(self.registry.pointed)
        self._mounts.replace(pointed)
        backbone = self._scheduler.engine.backbone
        foreign = await asyncio.to_thread(self.registry.foreign, backbone.fingerprint)
        if foreign:
            what = "%d of %d aliases can not answer: their adapters are for other weights than this server's %s"
            log.error(what, foreign, len(pointed), backbone.name)

    async def close(self) -> None:
        """Wait for the registrations, promotions and loads under way."""
        await asyncio.gather(*self._begun, return_exceptions=True)
        await self.residency.close()

    async def register(self, receive: Receive, alias: str = "") -> Registration:
        """Take an upload through the gate into the registry, then point `alias` at it when it is given.

        Raises the first check's error; nothing is kept then.
        """
        return await self._finish(self._register(receive, alias))

    async def promote(self, task: str, alias: str, version: int, expected: int | None = None) -> Promotion:
        """Point an alias at a version: loaded first, then written down, then answering.

        Raises NotFoundError, ConflictError, or IncompatibleError for a version that can not be loaded.
        """
        return await self._finish(self._promote(task, alias, version, expected))

    async def ensure(self, wants: Sequence[Want]) -> list[Mounted]:
        """The adapters of `wants` now, loaded where they were not in memory.

        Raises NotFoundError for a task, alias or version that is not there, IncompatibleError for a version in
        quarantine.
        """
        with self._mounts.leases() as held:
            return await self._hold(wants, held)

    def pinned(self, wants: Sequence[Want]) -> AbstractContextManager[None]:
        """While open, as for a stream: what answers `wants` stays in memory. Raises TooLargeError."""
        return self._mounts.pinned(wants)

    def version(self, want: Want) -> VersionId | None:
        """The version that would answer now; None for a number that is not in memory. Raises NotFoundError."""
        return self._mounts.version(want)

    def preprocessings(self, wants: Sequence[Want]) -> tuple[Preprocessing, ...]:
        """How frames are prepared for what answers `wants` now, as far as that is in memory."""
        return self._mounts.preprocessings(wants)

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms = ANY_TIME) -> list[Answer]:
        """One answer per want, in order; waits for adapters that are not in memory.

        Raises as `ensure` does, and what the scheduler raises.
        """
        while True:
            with self._mounts.leases() as held:
                await self._hold(wants, held)
                try:
                    return await self._scheduler.answer(frame, wants, terms)
                except ColdError:
                    continue  # while it waited, an alias moved on to a version that is not in memory any more

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        begun = asyncio.create_task(work)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return await asyncio.shield(begun)

    async def _register(self, receive: Receive, alias: str) -> Registration:
        with self.registry.staging() as staging:
            archive, folder = staging / "upload.zip", staging / "package"
            checks = [await receive(archive)]
            await self.residency.beside(unpack, archive, folder)
            admitted = await self.residency.beside(inspect, folder, self._scheduler.engine.backbone, checks)
            start = time.perf_counter()
            async with self.residency.trial(admitted.adapter):
                passed(checks, "warm-up", "answers with numbers", start)
                await golden_check(admitted, self._scheduler.logits, self._scheduler.engine.precision, checks)
                record, is_new = await self.residency.beside(self.registry.add, admitted.package, folder)
                self.residency.keep(Mounted(record.id, admitted.adapter))
        if alias:
            await self._promote(record.id.task, alias, record.id.version)
            record = await asyncio.to_thread(self.registry.get, record.id.task, record.id.version)
        return Registration(record, tuple(checks), is_new)

    async def _promote(self, task: str, alias: str, version: int, expected: int | None = None) -> Promotion:
        start = time.perf_counter()
        promoted = await asyncio.to_thread(self.registry.identify, task, version)
        with self._mounts.leases() as held:
            held.hold(promoted)
            mounted = await self.residency.load(promoted)
            await self.residency.settle(promoted.content_hash)
            async with self._promoting:
                previous = await asyncio.to_thread(self.registry.set_alias, task, alias, version, expected)
                self._mounts.point(alias, mounted)
        switch_ms = (time.perf_counter() - start) * 1e3
        log.info("%s@%s: version %d answers instead of %d", task, alias, version, previous)
        return Promotion(task, alias, version, previous, switch_ms)

    async def _hold(self, wants: Sequence[Want], held: Leases) -> list[Mounted]:
        """The adapters of `wants`, leased before they are waited for; all that are cold are loaded side by side."""
        versions = [self._mounts.version(want) or await self._identify(want) for want in wants]
        for version in versions:
            held.hold(version)
        cold = [version for version in versions if version.content_hash not in self._mounts.hot]
        if cold:
            await asyncio.gather(*map(self.residency.load, cold))
        return [await self.residency.load(version) for version in versions]

    async def _identify(self, want: Want) -> VersionId:
        return await asyncio.to_thread(self.registry.identify, want.task, want.version)

    def _read(self, version: VersionId) -> Adapter:
        """A registered version from the disk; what passed the gate is not checked again if its bytes are the same."""
        folder = self.registry.folder(version.content_hash)
        if not folder.is_dir():
            where, fix = f"{version.task}:{version.version}", "register the package again, and look at the disk"
            raise NotFoundError("its package is gone from the data directory", field="adapter", value=where, fix=fix)
        return fit(read_content(folder, version.content_hash), self._scheduler.engine.backbone)
