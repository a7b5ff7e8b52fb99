"""A package on its way into the registry: through the gate, on trial in the engine, then kept; or refused.

Either way the journal says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lensmount.errors import LensmountError, UnavailableError
from lensmount_adapters.archive import unpack
from lensmount_adapters.manifest import read_manifest
from lensmount_adapters.package import Package
from lensmount_server.frames import VersionId
from lensmount_server.gate import Admitted, Check, golden_check, inspect, passed
from lensmount_server.hotset import Mounted
from lensmount_server.policy import Policy
from lensmount_server.registry import NOBODY, By, Record, Registry
from lensmount_server.residency import Residency
from lensmount_server.scheduler import Scheduler

# Writes an upload to a path, and says how that was checked.
Receive = Callable[[Path], Awaitable[Check]]


@dataclass(frozen=True)
class Request:
    """What is asked for with a package: who asks, the tags of the version, and whether it is only to be checked."""

    by: By = NOBODY
    tags: Mapping[str, str] = field(default_factory=dict)
    validate_only: bool = False


@dataclass(frozen=True)
class Promotion:
    """An alias that was set: from `previous` (0: none) to `version`, within `switch_ms`.

    `first_answer_ms` is the time to the first frame that it answered; None when none was waited for, or came.
    """

    task: str
    alias: str
    version: int
    previous: int
    switch_ms: float
    etag: str
    first_answer_ms: float | None = None


@dataclass(frozen=True)
class Registration:
    """A registered version and the checks that it passed; `is_new` unless its content was there before.

    The record of a package that was only checked has the number 0, unless it is registered. `promotion` is how the
    alias was set that was asked for.
    """

    record: Record
    checks: tuple[Check, ...]
    is_new: bool
    promotion: Promotion | None = None


class Registrar:
    """Registers packages."""

    def __init__(self, registry: Registry, residency: Residency, scheduler: Scheduler, policy: Policy) -> None:
        self._registry = registry
        self._residency = residency
        self._scheduler = scheduler
        self._policy = policy

    async def register(self, receive: Receive, request: Request) -> Registration:
        """Take an upload through the gate into the registry. Raises the first check's error; nothing is kept then."""
        with self._registry.staging() as staging:
            archive, folder = staging / "upload.zip", staging / "package"
            try:
                checks = [await receive(archive)]
                return await self._check(archive, folder, checks, request)
            except LensmountError as error:
                with suppress(UnavailableError):
                    await asyncio.to_thread(self._registry.refuse, _task_of(folder), error, request.by)
                raise

    async def _check(self, archive: Path, folder: Path, checks: list[Check], request: Request) -> Registration:
        beside, engine = self._residency.beside, self._scheduler.engine
        await beside(unpack, archive, folder)
        admitted = await beside(inspect, folder, engine.backbone, checks)
        start = time.perf_counter()
        with self._registry.offered(admitted.package.content_hash, folder):
            async with self._residency.trial(admitted.adapter):
                passed(checks, "warm-up", "answers with numbers", start)
                await golden_check(admitted, self._scheduler.logits, engine.precision, checks)
                start = time.perf_counter()
                passed(checks, "policy", self._policy.check(admitted.package.manifest), start)
                if request.validate_only:
                    record, is_new = await beside(self._look, admitted.package)
                else:
                    record, is_new = await self._keep(admitted, folder, request)
        return Registration(record, tuple(checks), is_new)

    async def _keep(self, admitted: Admitted, folder: Path, request: Request) -> tuple[Record, bool]:
        add = self._registry.add
        record, is_new = await self._residency.beside(add, admitted.package, folder, request.by, request.tags)
        self._residency.keep(Mounted(record.id, admitted.adapter))
        return record, is_new

    def _look(self, package: Package) -> tuple[Record, bool]:
        known = self._registry.find(package.content_hash)
        if known is not None:
            return known, False
        identity = VersionId(package.manifest.task, 0, package.content_hash)
        return Record(identity, package.manifest, package.size_bytes, 0, 0, "", NOBODY), True


def _task_of(folder: Path) -> str:
    """The task that an unpacked package says it is for; "" where it does not say."""
    try:
        return read_manifest(folder).task
    except (LensmountError, OSError):
        return ""
