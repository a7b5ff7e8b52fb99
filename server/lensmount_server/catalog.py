"""Adapters from the outside to the engine: register, promote, roll back, load.

What is registered (registry), what an alias points at (mounts) and what is in memory
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
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from lensmount.errors import LensmountError, NotFoundError, UnavailableError
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.runtime import Engine
from lensmount_server.firsts import FirstAnswers
from lensmount_server.following import Follower
from lensmount_server.frames import Answer, Frame, Picture, VersionId, Want
from lensmount_server.mounts import ColdError, Leases, Mounted, Mounts
from lensmount_server.policy import Policy
from lensmount_server.registrar import Promotion, Receive, Registrar, Registration, Request
from lensmount_server.registry import NOBODY, By, Change, Collected, Expected, Registry
from lensmount_server.residency import Residency
from lensmount_server.scheduler import Scheduler
from lensmount_server.scheduling import ANY_TIME, Terms

log = logging.getLogger(__name__)

T = TypeVar("T")

ANYTHING = Expected()


class Catalog:
    """The adapters of this server; lives on the event loop, works on disk in threads.

    `policy` is what a package's own metrics must reach; where `keep` is given, versions beyond so many of the newest
    are collected after each registration.
    """

    def __init__(
        self, registry: Registry, mounts: Mounts, scheduler: Scheduler, policy: Policy | None = None, keep: int = 0
    ) -> None:
        self.registry = registry
        self._keep = keep
        self._mounts = mounts
        self._scheduler = scheduler
        self._begun: set[asyncio.Task[Any]] = set()
        engine = scheduler.engine
        self.residency = Residency(mounts.hot, engine, self._read, engine.backbone.device)
        self.follower = Follower(registry, mounts, self.residency)
        self._firsts = FirstAnswers(self.follower.tell_first_answer)
        self.follower.on_turned = self._firsts.expect
        self._registrar = Registrar(registry, self.residency, scheduler, policy or Policy())

    @property
    def engine(self) -> Engine:
        """What computes."""
        return self._scheduler.engine

    async def load_aliases(self) -> None:
        """Learn what every alias points at, and follow that. Nothing is loaded before somebody asks for it."""
        pointed = await self.follower.start()
        backbone = self._scheduler.engine.backbone
        foreign = await asyncio.to_thread(self.registry.foreign, backbone.fingerprint)
        if foreign:
            what = "%d of %d aliases can not answer: their adapters are for other weights than this server's %s"
            log.error(what, foreign, pointed, backbone.name)

    async def close(self) -> None:
        """Wait for the registrations, promotions and loads under way."""
        await asyncio.gather(*self._begun, return_exceptions=True)
        await self.follower.close()
        await self.residency.close()

    async def register(self, receive: Receive, alias: str = "", request: Request | None = None) -> Registration:
        """Take an upload through the gate into the registry, then point `alias` at it when it is given.

        Raises the first check's error; nothing is kept then.
        """
        return await self._finish(self._register(receive, alias, request or Request()))

    async def promote(
        self,
        task: str,
        alias: str,
        version: int,
        expected: Expected = ANYTHING,
        by: By = NOBODY,
        patience_s: float = 0.0,
    ) -> Promotion:
        """Point an alias at a version: loaded first, then written down, then answering.

        Where streams follow the alias it waits for the first frame that it answers, at most `patience_s`.
        Raises NotFoundError, ConflictError, or IncompatibleError for a version that can not be loaded.
        """
        start = time.perf_counter()

        async def switch() -> tuple[Promotion, asyncio.Future[float]]:
            promoted = await asyncio.to_thread(self.registry.identify, task, version)
            write = self.registry.set_alias
            return await self._switch(promoted, alias, start, write, task, alias, version, expected, by)

        return await self._first_answer(await self._finish(switch()), start, patience_s)

    async def roll_back(
        self,
        task: str,
        alias: str,
        version: int | None = None,
        etag: str | None = None,
        by: By = NOBODY,
        patience_s: float = 0.0,
    ) -> Promotion:
        """Point an alias back at what it pointed at before, or at `version`, which it pointed at once.

        Raises as `promote` does.
        """
        start = time.perf_counter()

        async def switch() -> tuple[Promotion, asyncio.Future[float]]:
            target, now = await asyncio.to_thread(self.registry.rollback_target, task, alias, version, etag)
            return await self._switch(target.version, alias, start, self.registry.roll_back, target, alias, now, by)

        return await self._first_answer(await self._finish(switch()), start, patience_s)

    async def change(self, write: Callable[..., T], *what: Any) -> T:
        """Change the registry in a thread, to the end, and have the change take effect here. Raises as `write` does."""

        async def written() -> T:
            done = await asyncio.to_thread(write, *what)
            await self.follower.catch_up()
            return done

        return await self._finish(written())

    async def collect(self, keep: int, task: str = "", by: By = NOBODY, *, dry_run: bool = False) -> Collected:
        """Delete versions that nothing needs, streams of this server included; see `Registry.collect`."""
        for number in self._mounts.hot.pinned:
            with suppress(NotFoundError):
                await self.follower.note([number])
        return await self.change(partial(self.registry.collect, keep, task, by, dry_run=dry_run))

    async def note_use(self, wants: Sequence[Want]) -> None:
        """Have no server collect the versions that a stream asks for by number. Raises NotFoundError."""
        await self.follower.note({(want.task, want.version) for want in wants if want.version})

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
                    answers = await self._scheduler.answer(frame, wants, terms)
                except ColdError:
                    continue  # while it waited, an alias moved on to a version that is not in memory any more
            self._firsts.seen(wants, answers)
            return answers

    async def answer_alike(
        self, want: Want, look: Callable[[Mounted], Awaitable[Sequence[Picture]]], terms: Terms, arrived_s: float
    ) -> tuple[Mounted, list[Answer]]:
        """One answer for each picture that `look` makes, all by the version that answers `want` now, and that version.

        Raises as `ensure` does, what `look` raises, and what the scheduler raises.
        """
        with self._mounts.leases() as held:
            (mounted,) = await self._hold((want,), held)
            numbered = Want(want.task, want.alias, mounted.id.version)
            answers = await self._scheduler.answer_alike(await look(mounted), numbered, terms, arrived_s)
        self._firsts.seen((want,), answers[:1])
        return mounted, answers

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        begun = asyncio.create_task(work)
        self._begun.add(begun)
        begun.add_done_callback(self._begun.discard)
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(_report)
            raise

    async def _register(self, receive: Receive, alias: str, request: Request) -> Registration:
        done = await self._registrar.register(receive, request)
        self.follower.kick()
        if request.validate_only:
            return done
        task, version = done.record.id.task, done.record.id.version
        if alias:
            promotion = await self.promote(task, alias, version, by=request.by)
            record = await asyncio.to_thread(self.registry.get, task, version)
            done = replace(done, record=record, promotion=promotion)
        if self._keep and done.is_new:
            await self._retain(task)
        return done

    async def _retain(self, task: str) -> None:
        """Collect what is old; what was registered stands, whatever comes of this."""
        try:
            await self.collect(self._keep, task, By(origin="--keep-versions"))
        except UnavailableError as error:
            log.warning("old versions of %s are still there: %s", task, error)

    async def _switch(
        self, version: VersionId, alias: str, start: float, write: Callable[..., Change], *what: Any
    ) -> tuple[Promotion, asyncio.Future[float]]:
        """Load a version, `write` that an alias points at it, and let it answer."""
        with self._mounts.leases() as held:
            held.hold(version)
            mounted = await self.residency.load(version)
            await self.residency.settle(version.content_hash)
            change = await asyncio.to_thread(write, *what)
            self._mounts.point(alias, mounted, change.seq)
            first = self._firsts.expect(alias, version, change.seq)
        self.follower.kick()
        switch_ms = (time.perf_counter() - start) * 1e3
        log.info("%s@%s: version %d answers instead of %d", version.task, alias, version.version, change.previous)
        done = Promotion(version.task, alias, version.version, change.previous, switch_ms, change.etag)
        return done, first

    async def _first_answer(
        self, done: tuple[Promotion, asyncio.Future[float]], start: float, patience_s: float
    ) -> Promotion:
        promotion, first = done
        if self._mounts.followed(promotion.task, promotion.alias):
            await asyncio.wait([first], timeout=patience_s)
        answered = first.done() and not first.cancelled()
        return replace(promotion, first_answer_ms=max(first.result() - start, 0.0) * 1e3) if answered else promotion

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
        return fit(self.registry.read(version), self._scheduler.engine.backbone)


def _report(done: asyncio.Task[Any]) -> None:
    """Say how something ended whose caller went away."""
    error = None if done.cancelled() else done.exception()
    if isinstance(error, LensmountError):
        log.info("its caller went away before it failed: %s", error)
    elif error is not None:
        log.error("its caller went away before it failed", exc_info=error)
