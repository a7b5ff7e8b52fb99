"""Sources that are paused, changed and remembered while frames run."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from answers import Echo, until
from lensmount.errors import InvalidInputError, NotFoundError, TooLargeError, UnavailableError
from lensmount_server.frames import Want
from lensmount_server.hub import Hub, Subscription
from lensmount_server.sources.connecting import IN_FLIGHT
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.sources.source import Pin
from lensmount_server.sources.store import SourceStore
from lensmount_server.streams import DropPolicy, StreamResult
from lensmount_server.video.settings import Gate, Region
from lensmount_server.workers.pool import WorkerPool
from videos import write_clip
from zygotes import shared_zygote

DEFECT, SURFACE = Want("defect"), Want("surface")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", 10))


@asynccontextmanager
async def managed(
    store: SourceStore | None = None, pin: Pin = lambda _: nullcontext()
) -> AsyncIterator[tuple[SourceManager, Hub]]:
    hub, pool = Hub(), WorkerPool(shared_zygote())
    manager = SourceManager(Echo(), hub, pool, pin=pin, store=store)
    try:
        await manager.restore()
        yield manager, hub
    finally:
        await manager.close()
        await pool.close()


async def change(manager: SourceManager, **changes: Any) -> SourceStatus:
    return await manager.update("a", lambda spec: replace(spec, **changes))


def answered(manager: SourceManager) -> int:
    return manager.get("a").account.answered


async def answered_more(manager: SourceManager, frames: int = 5) -> None:
    goal = answered(manager) + frames
    await until(lambda: answered(manager) >= goal)


def closed(status: SourceStatus) -> bool:
    """Whether every decoded frame is accounted for."""
    return status.account.in_flight == 0 and status.account.decoded > 0


async def test_a_pause_leaves_the_camera_and_closes_the_account(path: str) -> None:
    async with managed() as (manager, _):
        await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
        await answered_more(manager)
        paused = await manager.pause("a")
        assert (paused.state, paused.reason, paused.spec.paused) == (SourceState.PAUSED, "", True)
        assert closed(paused)
        assert paused.account.dropped.failed <= 1  # what waited in the worker
        assert not any(worker.feeds for worker in manager._around.pool.workers)
        await asyncio.sleep(0.3)
        assert manager.get("a").account == paused.account
        resumed = await manager.resume("a")
        assert resumed.state is SourceState.CONNECTING
        await answered_more(manager)
        assert manager.get("a").account.decoded > paused.account.decoded


async def test_frames_keep_their_numbers_and_times_over_a_pause(path: str) -> None:
    async with managed() as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
            await answered_more(manager)
            await manager.pause("a")
            await manager.resume("a")
            await answered_more(manager)
            await manager.remove("a")
            hub.close()
            results = [each.message async for each in subscription if isinstance(each.message, StreamResult)]
    indices, times = [result.frame_index for result in results], [result.pts_ns for result in results]
    assert indices == sorted(set(indices))
    assert times == sorted(set(times))
    gaps = sum(after - before - 1 for before, after in itertools.pairwise(indices))
    assert gaps == sum(result.dropped_before.frames for result in results) - results[0].dropped_before.frames


async def test_a_paused_source_can_be_added_changed_and_removed(path: str) -> None:
    async with managed() as (manager, _):
        added = await manager.add(SourceSpec("a", path, (DEFECT,), paused=True))
        assert added.state is SourceState.PAUSED
        changed = await change(manager, wants=(SURFACE,))
        assert (changed.state, changed.spec.wants) == (SourceState.PAUSED, (SURFACE,))
        assert manager._around.pool.workers == []
        await manager.pause("a")
        await manager.remove("a")
        with pytest.raises(NotFoundError):
            await manager.resume("a")


async def test_what_ended_starts_again(path: str) -> None:
    async with managed() as (manager, _):
        await manager.add(SourceSpec("a", path, (DEFECT,), DropPolicy.EVERY_FRAME))
        await until(lambda: manager.get("a").state is SourceState.ENDED)
        assert answered(manager) == 10
        await manager.resume("a")
        await until(lambda: manager.get("a").state is SourceState.ENDED and answered(manager) == 20)


async def test_tasks_change_without_a_new_connection(path: str) -> None:
    async with managed() as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
            await answered_more(manager)
            await change(manager, wants=(DEFECT, SURFACE), deadline_ms=5000)
            await answered_more(manager)
            assert manager.get("a").connections == 1
            await change(manager, wants=(SURFACE,))
            await answered_more(manager)
            assert manager.get("a").connections == 1
            await manager.remove("a")
            hub.close()
            results = [each.message async for each in subscription if isinstance(each.message, StreamResult)]
    tasks = [
        tuple(r.answer.adapter.task for r in results if r.frame_index == index)
        for index in dict.fromkeys(result.frame_index for result in results)
    ]
    changes = [task for task, before in zip(tasks, [(), *tasks], strict=False) if task != before]
    assert changes == [("defect",), ("defect", "surface"), ("surface",)]


async def test_another_video_needs_another_connection(path: str, tmp_path: Path) -> None:
    other = str(write_clip(tmp_path / "b.mp4", 10, size=(640, 480)))
    async with managed() as (manager, _):
        await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
        await answered_more(manager)
        await change(manager, url=other)
        await until(lambda: manager.get("a").width == 640)
        await answered_more(manager)
        assert manager.get("a").connections == 2
        paused = await manager.pause("a")
        assert closed(paused)


async def test_a_region_takes_effect_while_it_runs(path: str) -> None:
    async with managed() as (manager, hub):
        await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
        await answered_more(manager)
        await change(manager, region=Region(0.5, 0.0, 0.5, 0.5), rotation=90)
        with hub.subscribe(["a"], with_frames=True) as subscription:
            results = await _some(subscription, 10)
        sizes = [(each.frame.picture.width, each.frame.picture.height) for each in results if each.frame]
        before = sizes.count((320, 240))
        assert before <= IN_FLIGHT[DropPolicy.NEWEST] + 1  # those under way, and the one that had been asked for
        assert sizes == [(320, 240)] * before + [(120, 160)] * (10 - before)
        assert manager.get("a").connections == 1


async def _some(subscription: Subscription, count: int) -> list[StreamResult]:
    results: list[StreamResult] = []
    async for item in subscription:
        if isinstance(item.message, StreamResult):
            results.append(item.message)
        if len(results) == count:
            break
    return results


async def test_an_update_for_which_there_is_no_room_changes_nothing(path: str, tmp_path: Path) -> None:
    @contextmanager
    def pin(wants: Sequence[Want]) -> Iterator[None]:
        if SURFACE in wants:
            raise TooLargeError("too many adapters")
        yield

    store = SourceStore(tmp_path / "sources.json")
    async with managed(store, pin) as (manager, _):
        await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
        await answered_more(manager)
        with pytest.raises(TooLargeError):
            await change(manager, wants=(SURFACE,))
        assert manager.spec("a").wants == (DEFECT,)
        assert store.load() == [manager.spec("a")]
        await answered_more(manager)


async def test_an_update_that_can_not_be_changes_nothing(path: str) -> None:
    async with managed() as (manager, _):
        await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
        for wrong in ({"url": "ftp://x/y"}, {"wants": ()}, {"rotation": 45}, {"gate": Gate(2.0)}):
            with pytest.raises(InvalidInputError):
                await change(manager, **wrong)
        with pytest.raises(NotFoundError):
            await manager.update("b", lambda spec: spec)
        assert manager.spec("a") == SourceSpec("a", path, (DEFECT,), loop=True)
        await answered_more(manager)


class TestRemembered:
    @pytest.fixture
    def store(self, tmp_path: Path) -> SourceStore:
        return SourceStore(tmp_path / "sources.json")

    async def test_sources_are_there_again(self, store: SourceStore, path: str) -> None:
        specs = [
            SourceSpec("a", path, (DEFECT, Want("surface", "canary", 0, 2.5)), DropPolicy.EVERY_FRAME, loop=True),
            SourceSpec("b", "rtsp://me:secret@127.0.0.1:1/cam", (DEFECT,), region=Region(0.1, 0.2, 0.3, 0.4)),
        ]
        async with managed(store) as (manager, _):
            for spec in specs:
                await manager.add(spec)
            await manager.add(SourceSpec("c", path, (DEFECT,)))
            await manager.remove("c")
            await manager.pause("b")
        async with managed(store) as (manager, _):
            assert [manager.spec(name) for name in "ab"] == [specs[0], replace(specs[1], paused=True)]
            assert [status.state for status in manager.list()] == [SourceState.CONNECTING, SourceState.PAUSED]
            await answered_more(manager)

    async def test_a_source_that_can_not_work_any_more_says_why(self, store: SourceStore, tmp_path: Path) -> None:
        gone = write_clip(tmp_path / "gone.mp4", 2)
        async with managed(store) as (manager, _):
            await manager.add(SourceSpec("a", str(gone), (DEFECT,), loop=True))
        gone.unlink()
        async with managed(store) as (manager, _):
            await until(lambda: manager.get("a").state is SourceState.FAILED)
            assert "no such file" in manager.get("a").reason

    async def test_only_their_owner_can_read_them(self, store: SourceStore, path: str, tmp_path: Path) -> None:
        async with managed(store) as (manager, _):
            await manager.add(SourceSpec("a", path, (DEFECT,)))
        assert stat.S_IMODE((tmp_path / "sources.json").stat().st_mode) == 0o600

    async def test_what_can_not_be_remembered_does_not_happen(
        self, store: SourceStore, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with managed(store) as (manager, _):
            await manager.add(SourceSpec("a", path, (DEFECT,), loop=True))
            await answered_more(manager)

            def full(_: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
            for change in (manager.add(SourceSpec("b", path, (DEFECT,))), manager.pause("a"), manager.remove("a")):
                with pytest.raises(UnavailableError, match="No space left"):
                    await change
            await answered_more(manager)
            assert [status.spec.name for status in manager.list()] == ["a"]
            monkeypatch.undo()
        async with managed(store) as (manager, _):
            assert [status.spec.name for status in manager.list()] == ["a"]
            assert manager.get("a").state is SourceState.CONNECTING

    @pytest.mark.parametrize("content", [b"", b"{", b'[{"name": 1}]', b"\xff"])
    async def test_a_damaged_file_is_one_clear_error(self, store: SourceStore, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "sources.json").write_bytes(content)
        with pytest.raises(UnavailableError, match="can not be read") as caught:
            store.load()
        assert "add the sources again" in caught.value.fix

    def test_the_file_is_json_that_a_person_can_read(self, store: SourceStore, tmp_path: Path) -> None:
        store.save([SourceSpec("a", "/x.mp4", (DEFECT,))])
        (one,) = json.loads((tmp_path / "sources.json").read_text())
        assert one["name"] == "a"
        assert one["wants"][0]["task"] == "defect"
