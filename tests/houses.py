"""A catalog with all that is below it, in one event loop, and what its versions must answer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import Tensor

from factories import pictures
from lensmount.archive import open_archive
from lensmount_adapters.adapter import Adapter
from lensmount_server.catalog import Catalog
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.gate import Check
from lensmount_server.hotset import HotLimits, HotSet
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Registry
from lensmount_server.scheduler import Scheduler
from serving import PATIENCE_S, Kit

SHOTS = pictures(4, seed=9)
LIVE = Want("defect")
SURFACE = Want("surface")


class Witness(Engine):
    """Notes every row of an adapter that was not mounted when it ran, or that was dropped before it had."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit.backbone)
        self.warm: set[str] = set()
        self.wrong: list[str] = []

    def mount(self, adapter: Adapter) -> None:
        """Warm it up and note it."""
        super().mount(adapter)
        self.warm.add(adapter.content_hash)

    def unmount(self, content_hash: str) -> None:
        """Note it."""
        self.warm.discard(content_hash)

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        """Run a batch; look at what is mounted before and after."""
        wanted = {adapter.content_hash for job in jobs for adapter in job.adapters}
        self.wrong += wanted - self.warm
        logits = super().run(jobs)
        self.wrong += wanted - self.warm
        return logits


@dataclass(frozen=True, eq=False)
class House:
    """A catalog with what is below it."""

    engine: Witness
    mounts: Mounts
    scheduler: Scheduler
    catalog: Catalog


@asynccontextmanager
async def opened(kit: Kit, data_dir: Path, mounts: Mounts) -> AsyncIterator[House]:
    """A catalog over a data directory, as a server has it."""
    registry, engine = Registry(data_dir), Witness(kit)
    scheduler = Scheduler(engine, mounts)
    catalog = Catalog(registry, mounts, scheduler)
    try:
        await catalog.load_aliases()
        yield House(engine, mounts, scheduler, catalog)
    finally:
        await catalog.close()
        await scheduler.close()
        registry.close()


def of(count: int) -> Mounts:
    """Room for so many hot adapters."""
    return Mounts(HotSet(HotLimits(count)))


async def register(catalog: Catalog, folder: Path, alias: str = "") -> VersionId:
    """Take a package through the gate."""

    async def receive(archive: Path) -> Check:
        with open_archive(folder) as packed:
            await asyncio.to_thread(archive.write_bytes, packed.file.read())
        return Check("upload", "", 0.0)

    return (await catalog.register(receive, alias)).record.id


async def ask(catalog: Catalog, want: Want, shot: int = 0) -> Answer:
    """One answer for one of the pictures."""
    (answer,) = await asyncio.wait_for(catalog.answer(Frame(Still(SHOTS[shot])), [want]), PATIENCE_S)
    return answer


async def stock(kit: Kit, data_dir: Path) -> None:
    """Three versions of `defect`, the first live; `surface` and `grade` live."""
    async with opened(kit, data_dir, Mounts()) as house:
        for version in (*kit.defect, kit.surface, kit.grade):
            await register(house.catalog, version.folder)
        for task in ("defect", "surface", "grade"):
            await house.catalog.promote(task, "live", 1)


@cache
def oracle(kit: Kit) -> dict[str, list[tuple[float, ...]]]:
    """By content hash: the scores for each of the pictures."""
    return {version.adapter.content_hash: [version.scores(shot) for shot in SHOTS] for version in kit.versions}


def insert(data_dir: Path, rows: Sequence[tuple[str, str]], manifest: str) -> None:
    """Rows of (hash, task), each live, as the registry writes them."""
    now, fingerprint = time.time_ns(), json.loads(manifest)["backbone"]["fingerprint"]
    with closing(sqlite3.connect(data_dir / "registry.sqlite")) as database, database:
        (last,) = database.execute("SELECT seq FROM counter").fetchone()
        first = last + 1
        database.executemany(
            "INSERT INTO adapter_versions VALUES (?, 1, ?, ?, ?, ?, 1, ?, '', '', ?, ?, 0, '', NULL)",
            [
                (task, hash_, first + place, manifest, fingerprint, now + place, hash_, task)
                for place, (hash_, task) in enumerate(rows)
            ],
        )
        database.executemany("INSERT INTO aliases VALUES (?, 'live', 1, ?, 0)", [(task, now) for _, task in rows])
        database.execute("UPDATE counter SET seq = ?", (last + len(rows),))
