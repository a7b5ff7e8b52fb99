"""Swaps under load, through catalog, scheduler and engine: no row is lost, none is answered by other weights."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import event
from torch import Tensor

from factories import pictures
from lensmount.archive import open_archive
from lensmount.errors import IncompatibleError, LensmountError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.package import content_hash
from lensmount_server.catalog import Catalog
from lensmount_server.engine.runtime import Engine, Job
from lensmount_server.frames import Answer, Frame, VersionId, Want
from lensmount_server.gate import Check
from lensmount_server.hotset import HotLimits, HotSet
from lensmount_server.mounts import ColdError, Mounted, Mounts
from lensmount_server.registry import Registry
from lensmount_server.scheduler import Scheduler
from serving import CLOSE, PATIENCE_S, Kit, kept

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
        super().mount(adapter)
        self.warm.add(adapter.content_hash)

    def unmount(self, content_hash: str) -> None:
        self.warm.discard(content_hash)

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
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
    return Mounts(HotSet(HotLimits(count)))


async def register(catalog: Catalog, folder: Path, alias: str = "") -> VersionId:
    async def receive(archive: Path) -> Check:
        with open_archive(folder) as packed:
            await asyncio.to_thread(archive.write_bytes, packed.file.read())
        return Check("hash", "", 0.0)

    return (await catalog.register(receive, alias)).record.id


async def ask(catalog: Catalog, want: Want, shot: int = 0) -> Answer:
    (answer,) = await asyncio.wait_for(catalog.answer(Frame(SHOTS[shot]), [want]), PATIENCE_S)
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


@dataclass(frozen=True)
class Row:
    """One answer, the last promotion that was done when it was asked for, and the last that had begun when it came."""

    shot: int
    want: Want
    answer: Answer
    done: int
    begun: int


@dataclass
class Load:
    """Frames from several callers while `live` is moved as fast as it goes; `promoted` is what it was moved to.

    Whoever moves it asks for a frame each time: nothing but the new version may answer that.
    """

    house: House
    frames: int
    callers: int
    draw: random.Random
    promoted: list[int] = field(default_factory=lambda: [1])
    done: int = 0
    rows: list[Row] = field(default_factory=list)

    async def run(self) -> list[Row]:
        await asyncio.gather(self._promote(), *(self._call() for _ in range(self.callers)))
        return self.rows

    async def _call(self) -> None:
        choices = [LIVE, SURFACE, Want("grade"), *(Want("defect", version=number) for number in (1, 2, 3))]
        while len(self.rows) < self.frames:
            await self._ask(self.draw.sample(choices, self.draw.randint(1, 3)))

    async def _promote(self) -> None:
        while len(self.rows) < self.frames:
            version = self.draw.choice([1, 2, 3])
            self.promoted.append(version)
            await self.house.catalog.promote("defect", "live", version)
            self.done = len(self.promoted) - 1
            await self._ask([LIVE])

    async def _ask(self, wants: Sequence[Want]) -> None:
        shot, done = self.draw.randrange(len(SHOTS)), self.done
        answers = await self.house.catalog.answer(Frame(SHOTS[shot]), wants)
        begun = len(self.promoted)
        self.rows += [Row(shot, want, answer, done, begun) for want, answer in zip(wants, answers, strict=True)]


def check(rows: list[Row], promoted: list[int], kit: Kit) -> None:
    """Each row is of the task and version asked, by the weights that it names, and by no version that was replaced."""
    for row in rows:
        answer = row.answer
        assert answer.adapter.task == row.want.task
        assert row.want.version in (0, answer.adapter.version)
        assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][row.shot], abs=CLOSE)
        if row.want == LIVE:
            assert answer.adapter.version in promoted[row.done : row.begun]


@pytest.mark.parametrize(("hot", "callers"), [(1, 2), (2, 3), (256, 12)])
async def test_promotions_under_load_lose_and_misroute_nothing(
    kit: Kit, tmp_path: Path, hot: int, callers: int
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(hot)) as house:
        load = Load(house, 2000, callers, random.Random(hot))
        rows = await asyncio.wait_for(load.run(), 4 * PATIENCE_S)
        state = house.catalog.residency.state()
        assert len(rows) >= 2000
        check(rows, load.promoted, kit)
        assert house.engine.wrong == []
        assert len({row.answer.adapter.version for row in rows if row.want == LIVE}) == 3
        assert len(load.promoted) > 10
        assert (state.leased, state.pinned, state.quarantined) == (0, 0, 0)
        assert state.hot == min(hot, 5)
        assert (state.evictions > 20) == (hot < 5)


class Stale(Mounts):
    """A control: after a flip it goes on with the adapter from before, under the new name or its own."""

    def __init__(self, renamed: bool) -> None:
        super().__init__()
        self._renamed = renamed
        self._before: Mounted | None = None

    def point(self, alias: str, mounted: Mounted) -> None:
        if mounted.id.task == "defect" and LIVE.alias == alias and self.version_now() is not None:
            self._before = super().resolve(LIVE)
        super().point(alias, mounted)

    def version_now(self) -> VersionId | None:
        try:
            return super().resolve(LIVE).id
        except LensmountError:
            return None

    def resolve(self, want: Want) -> Mounted:
        found = super().resolve(want)
        if want != LIVE or self._before is None:
            return found
        return Mounted(found.id, self._before.adapter) if self._renamed else self._before


@pytest.mark.parametrize("renamed", [False, True])
async def test_the_adapter_from_before_a_flip_would_be_noticed(kit: Kit, tmp_path: Path, renamed: bool) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Stale(renamed)) as house:
        load = Load(house, 300, 12, random.Random(0))
        rows = await asyncio.wait_for(load.run(), 4 * PATIENCE_S)
    with pytest.raises(AssertionError):
        check(rows, load.promoted, kit)


class Hasty(HotSet):
    """A control: drops what is leased too."""

    def _victim(self) -> Mounted | None:
        return next(iter(self._hot.values()), None)


async def test_dropping_what_is_under_way_would_be_noticed(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts(Hasty(HotLimits(2)))) as house:
        held = asyncio.Event()

        async def churn() -> None:
            while not held.is_set():
                for want in (Want("grade"), SURFACE, LIVE):
                    await house.catalog.ensure([want])

        churning = asyncio.create_task(churn())
        for _ in range(200):
            try:
                await house.catalog.answer(Frame(SHOTS[0]), [LIVE, SURFACE])
            except LensmountError:
                break
        held.set()
        await churning
    assert house.engine.wrong


# Who waits for what is cold: those who want it, and nobody else.


async def test_a_cold_adapter_keeps_no_other_task_waiting(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        await ask(house.catalog, SURFACE)
        released = asyncio.Event()
        loop, read = asyncio.get_running_loop(), house.catalog.residency._read

        def slowly(version: VersionId) -> Adapter:
            if version.task == "defect":
                asyncio.run_coroutine_threadsafe(released.wait(), loop).result(PATIENCE_S)
            return read(version)

        monkeypatch.setattr(house.catalog.residency, "_read", slowly)
        cold = [asyncio.create_task(ask(house.catalog, LIVE, shot)) for shot in range(4)]
        for _ in range(20):
            assert (await ask(house.catalog, SURFACE)).adapter.task == "surface"
            assert (await ask(house.catalog, Want("grade"))).adapter.task == "grade"
        assert not any(each.done() for each in cold)
        assert not house.scheduler._waiting
        released.set()
        answers = await asyncio.gather(*cold)
        for shot, answer in enumerate(answers):
            assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][shot], abs=CLOSE)
        assert house.catalog.residency.state().loads == 3


async def test_a_row_is_refused_while_its_adapter_is_not_in_memory(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(1)) as house:
        with pytest.raises(ColdError):
            await house.scheduler.answer(Frame(SHOTS[0]), [LIVE])
        await ask(house.catalog, LIVE)
        assert await house.scheduler.answer(Frame(SHOTS[0]), [LIVE])
        await ask(house.catalog, SURFACE)
        with pytest.raises(UnavailableError, match="not in memory"):
            await house.scheduler.answer(Frame(SHOTS[0]), [LIVE])


async def test_an_alias_that_moves_to_a_cold_version_while_a_frame_waits_is_followed(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(1)) as house:
        answer, asked = house.scheduler.answer, []

        async def moved_meanwhile(frame: Frame, wants: Sequence[Want]) -> list[Answer]:
            asked.append(wants)
            if len(asked) == 1:
                await house.catalog.promote("defect", "live", 2)
                await house.catalog.ensure([SURFACE])
            return await answer(frame, wants)

        monkeypatch.setattr(house.scheduler, "answer", moved_meanwhile)
        assert (await ask(house.catalog, LIVE)).adapter.version == 2
        assert len(asked) == 2


# What is wrong with one version.


def corrupt(data_dir: Path, hash_: str) -> None:
    stored = data_dir / "blobs" / hash_ / "adapter_model.safetensors"
    data = bytearray(stored.read_bytes())
    data[-3] ^= 1
    stored.write_bytes(data)


async def test_a_cold_version_that_was_changed_on_disk_is_refused_and_nobody_else_notices(
    kit: Kit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await stock(kit, tmp_path / "data")
    corrupt(tmp_path / "data", kit.defect[0].adapter.content_hash)
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        others = [asyncio.create_task(ask(house.catalog, want)) for want in (SURFACE, Want("grade")) * 20]
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(IncompatibleError, match=r"in quarantine: .*changed on disk") as caught:
                    await ask(house.catalog, LIVE)
        assert caught.value.value == "defect:1"
        assert "register the package again" in caught.value.fix
        for answer in await asyncio.gather(*others):
            assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][0], abs=CLOSE)
        await house.catalog.promote("defect", "live", 2)
        assert (await ask(house.catalog, LIVE)).adapter.version == 2
        await register(house.catalog, kit.defect[0].folder, alias="live")
        assert (await ask(house.catalog, LIVE)).adapter.version == 1
        assert house.catalog.residency.state().quarantined == 0


def slip_in(kit: Kit, data_dir: Path, task: str, folder: Path) -> None:
    """Put a package and its row, live, where they belong, past the gate."""
    hash_ = content_hash(folder)
    shutil.copytree(folder, data_dir / "blobs" / hash_)
    insert(data_dir, [(hash_, task)], (kit.defect[0].folder / "task.json").read_text())


def insert(data_dir: Path, rows: Sequence[tuple[str, str]], manifest: str) -> None:
    """Rows of (hash, task), each live, as the registry writes them."""
    now = time.time_ns()
    with closing(sqlite3.connect(data_dir / "registry.sqlite")) as database, database:
        database.executemany(
            "INSERT INTO adapter_versions VALUES (?, ?, 1, ?, 1, ?)",
            [(hash_, task, manifest, now + place) for place, (hash_, task) in enumerate(rows)],
        )
        database.executemany("INSERT INTO aliases VALUES (?, 'live', 1, ?)", [(task, now) for _, task in rows])


SPOILT: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "NaN": ("in quarantine: .*holds NaN", lambda tensor: tensor.fill_(float("nan"))),
    "warm-up": ("in quarantine: warm-up: .*NaN or infinity", lambda tensor: tensor.fill_(3e38)),
}


@pytest.mark.parametrize("fault", SPOILT)
async def test_an_adapter_that_gives_no_numbers_is_in_quarantine(kit: Kit, tmp_path: Path, fault: str) -> None:
    await stock(kit, tmp_path / "data")
    message, spoil = SPOILT[fault]
    folder = Path(shutil.copytree(kit.defect[0].folder, tmp_path / "spoilt"))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_" in name:
            spoil(tensor)
    save_file(tensors, folder / "adapter_model.safetensors")
    slip_in(kit, tmp_path / "data", "spoilt", folder)
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        for _ in range(2):
            with pytest.raises(IncompatibleError, match=message):
                await ask(house.catalog, Want("spoilt"))
        assert await ask(house.catalog, LIVE)
        assert house.catalog.residency.state().quarantined == 1


async def test_a_registration_that_fails_on_warm_up_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    before = kept(tmp_path / "data")
    folder = Path(shutil.copytree(kit.defect[0].folder, tmp_path / "spoilt"))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, tensor in tensors.items():
        if "lora_" in name:
            tensor.fill_(3e38)
    save_file(tensors, folder / "adapter_model.safetensors")
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        with pytest.raises(IncompatibleError, match="NaN or infinity") as caught:
            await register(house.catalog, folder, alias="live")
        assert caught.value.field == "warm-up"
        assert kept(tmp_path / "data") == before
        assert house.engine.warm == set()
        assert house.catalog.residency.state().hot == 0
        assert (await ask(house.catalog, LIVE)).adapter.version == 1


# Ten thousand tasks on one machine.

TASKS = 10_000
REAL = 40


@contextmanager
def queries(registry: Registry) -> Iterator[list[str]]:
    """The statements that reach the database meanwhile."""
    seen: list[str] = []

    def note(*arguments: object) -> None:
        seen.append(str(arguments[2]))

    event.listen(registry._database, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(registry._database, "before_cursor_execute", note)


def crowd(kit: Kit, data_dir: Path) -> list[str]:
    """Rows of so many live tasks; the first few have packages of their own, whose files are links. Their hashes."""
    Registry(data_dir).close()
    hashes = []
    for number in range(REAL):
        folder = data_dir / "blobs" / f"new-{number}"
        folder.mkdir()
        for path in kit.defect[number % 3].folder.iterdir():
            if path.name != "README.md":
                os.link(path, folder / path.name)
        (folder / "README.md").write_text(f"# {number}\n")
        hashes.append(content_hash(folder))
        folder.rename(data_dir / "blobs" / hashes[-1])
    rows = [(hashes[n] if n < REAL else f"{n:064x}", f"task-{n:05d}") for n in range(TASKS)]
    insert(data_dir, rows, (kit.defect[0].folder / "task.json").read_text())
    return hashes


async def test_ten_thousand_live_tasks_start_and_list_in_a_few_queries(kit: Kit, tmp_path: Path) -> None:
    hashes = crowd(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(16)) as house:
        registry, residency = house.catalog.registry, house.catalog.residency
        assert (residency.state().hot, residency.state().loads) == (0, 0)
        with queries(registry) as seen:
            await house.catalog.load_aliases()
        assert len(seen) == 2
        with queries(registry) as seen:
            assert len(registry.page("", 100, None)) == 100
        assert len(seen) == 2
        with queries(registry) as seen:
            assert registry.get("task-00007", 1).aliases == ("live",)
        assert len(seen) == 2
        with queries(registry) as seen:
            for number, hash_ in enumerate(hashes):
                answer = await ask(house.catalog, Want(f"task-{number:05d}"))
                assert answer.adapter.content_hash == hash_
                expected = oracle(kit)[kit.defect[number % 3].adapter.content_hash][0]
                assert answer.scores == pytest.approx(expected, abs=CLOSE)
        assert not seen
        state = residency.state()
        assert (state.hot, state.loads, state.evictions) == (16, REAL, REAL - 16)
        assert (await ask(house.catalog, Want("task-00000"))).adapter.content_hash == hashes[0]
