"""Adapters from the outside to the engine: register, promote, load.

What is on disk (registry) and what can answer (mounts) meet here and nowhere else. A
registration or promotion that was begun is finished even when its caller goes away in the
middle: disk and memory never tell two different stories.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lensmount.errors import IncompatibleError, LensmountError, NotFoundError
from lensmount_adapters.adapter import fit
from lensmount_adapters.archive import unpack
from lensmount_adapters.package import read_package
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.gate import Check, golden_check, inspect
from lensmount_server.mounts import Mounted, Mounts
from lensmount_server.registry import Record, Registry
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

    async def load_aliases(self) -> None:
        """Mount what every alias points at; a version that can not be loaded is logged and left out."""
        for alias, record in await asyncio.to_thread(self.registry.pointed):
            try:
                self._mounts.point(alias, await self._load(record))
            except LensmountError as error:
                log.error("%s@%s can not answer: %s", record.id.task, alias, error)

    async def close(self) -> None:
        """Wait for the registrations and promotions under way."""
        await asyncio.gather(*self._begun, return_exceptions=True)

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

    async def ensure(self, wants: Iterable[Want]) -> list[Mounted]:
        """The adapters of `wants` now; a pinned version stays in memory while the result is held.

        Raises NotFoundError.
        """
        return [await self._pinned(want) if want.version else self._mounts.resolve(want) for want in wants]

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms = ANY_TIME) -> list[Answer]:
        """One answer per want, in order.

        Raises NotFoundError for a task that is not live, and what the scheduler raises.
        """
        held = await self.ensure(wants)
        answers = await self._scheduler.answer(frame, wants, terms)
        del held
        return answers

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        begun = asyncio.create_task(work)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        return await asyncio.shield(begun)

    async def _register(self, receive: Receive, alias: str) -> Registration:
        with self.registry.staging() as staging:
            archive, folder = staging / "upload.zip", staging / "package"
            checks = [await receive(archive)]
            await asyncio.to_thread(unpack, archive, folder)
            admitted = await asyncio.to_thread(inspect, folder, self._scheduler.engine.backbone, checks)
            await golden_check(admitted, self._scheduler.logits, self._scheduler.engine.precision, checks)
            record, is_new = await asyncio.to_thread(self.registry.add, admitted.package, folder)
        self._mounts.pin(Mounted(record.id, admitted.adapter))
        if alias:
            await self._promote(record.id.task, alias, record.id.version)
            record = await asyncio.to_thread(self.registry.get, record.id.task, record.id.version)
        return Registration(record, tuple(checks), is_new)

    async def _promote(self, task: str, alias: str, version: int, expected: int | None = None) -> Promotion:
        start = time.perf_counter()
        async with self._promoting:
            record = await asyncio.to_thread(self.registry.get, task, version)
            mounted = await self._load(record)
            previous = await asyncio.to_thread(self.registry.set_alias, task, alias, version, expected)
            self._mounts.point(alias, mounted)
        switch_ms = (time.perf_counter() - start) * 1e3
        log.info("%s@%s: version %d answers instead of %d", task, alias, version, previous)
        return Promotion(task, alias, version, previous, switch_ms)

    async def _pinned(self, want: Want) -> Mounted:
        ready = self._mounts.find(want.task, want.version)
        if ready is not None:
            return ready
        mounted = await self._load(await asyncio.to_thread(self.registry.get, want.task, want.version))
        self._mounts.pin(mounted)
        return mounted

    async def _load(self, record: Record) -> Mounted:
        ready = self._mounts.find(record.id.task, record.id.version)
        return ready if ready is not None else await asyncio.to_thread(self._read, record)

    def _read(self, record: Record) -> Mounted:
        """Read a version from disk; the content must still be what its hash says."""
        folder = self.registry.folder(record.id.content_hash)
        where, fix = f"{record.id.task}:{record.id.version}", "register the package again, and look at the disk"
        if not folder.is_dir():
            raise NotFoundError("its package is gone from the data directory", field="adapter", value=where, fix=fix)
        package = read_package(folder)
        if package.content_hash != record.id.content_hash:
            raise IncompatibleError("its package was changed on disk", field="adapter", value=where, fix=fix)
        return Mounted(record.id, fit(package, self._scheduler.engine.backbone))
