"""Update, pause and resume as the service does them, with a manager that only notes what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import pytest

from lensmount.errors import InvalidInputError, NotFoundError
from lensmount.v1 import common_pb2, sources_pb2
from lensmount_server.catalog import Catalog
from lensmount_server.frames import Want
from lensmount_server.hub import Hub
from lensmount_server.services.errors import Context
from lensmount_server.services.sources import SourceService
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.video.account import Account

Config = sources_pb2.SourceConfig
Update = sources_pb2.UpdateSourceRequest
NO_CONTEXT = cast("Context", None)


class Manager:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told = SourceSpec("line-1", "rtsp://user:secret@camera/1", (Want("defect"),), deadline_ms=200)

    def spec(self, name: str) -> SourceSpec:
        if name != self.told.name:
            raise NotFoundError("no such source", field="name", value=name)
        return self.told

    async def update(self, name: str, change: Callable[[SourceSpec], SourceSpec]) -> SourceStatus:
        spec = self.told = change(self.spec(name))
        return SourceStatus(spec, SourceState.PAUSED if spec.paused else SourceState.LIVE, Account().state())

    async def pause(self, name: str) -> SourceStatus:
        return await self.update(name, lambda spec: replace(spec, paused=True))

    async def resume(self, name: str) -> SourceStatus:
        return await self.update(name, lambda spec: replace(spec, paused=False))


class Known:
    """A catalog that knows some tasks, and takes its time to load them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def note_use(self, wants: Iterable[Want]) -> None:
        """Nobody collects anything here."""

    async def ensure(self, wants: Iterable[Want]) -> None:
        names = tuple(want.task for want in wants)
        self.asked.append(names)
        await self.gate.wait()
        if "weather" in names:
            raise NotFoundError("no such task", field="tasks", value="weather")


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def service(manager: Manager, known: Known) -> SourceService:
    return SourceService(cast("Catalog", known), cast("SourceManager", manager), cast("Hub", None))


def update(*paths: str, **fields: object) -> Update:
    request = Update(source=Config(name="line-1", **fields))  # type: ignore[arg-type]
    request.update_mask.paths.extend(paths)
    return request


async def test_a_change_reaches_the_manager_whole(service: SourceService, manager: Manager, known: Known) -> None:
    before = manager.told
    tasks = [common_pb2.TaskRef(task="defect"), common_pb2.TaskRef(task="scene", max_fps=2)]
    answer = await service.UpdateSource(update("tasks", "gate.change", tasks=tasks), NO_CONTEXT)
    assert manager.told == replace(before, wants=(Want("defect"), Want("scene", max_fps=2)))
    assert known.asked == [("defect", "scene")]
    assert [task.task for task in answer.config.tasks] == ["defect", "scene"]
    assert answer.config.url == "rtsp://user:***@camera/1"


async def test_two_changes_at_once_are_both_kept(service: SourceService, manager: Manager, known: Known) -> None:
    known.gate.clear()
    first = asyncio.create_task(service.UpdateSource(update(priority=5), NO_CONTEXT))
    second = asyncio.create_task(service.UpdateSource(update(rotation=90), NO_CONTEXT))
    await asyncio.sleep(0)
    known.gate.set()
    await asyncio.gather(first, second)
    assert (manager.told.priority, manager.told.rotation) == (5, 90)


async def test_a_task_that_is_not_there_changes_nothing(service: SourceService, manager: Manager) -> None:
    before = manager.told
    with pytest.raises(NotFoundError):
        await service.UpdateSource(update(tasks=[common_pb2.TaskRef(task="weather")], priority=5), NO_CONTEXT)
    with pytest.raises(InvalidInputError):
        await service.UpdateSource(update("priorities", priority=5), NO_CONTEXT)
    assert manager.told == before


async def test_a_source_that_is_not_there(service: SourceService) -> None:
    gone = Update(source=Config(name="line-2", priority=1))
    with pytest.raises(NotFoundError):
        await service.UpdateSource(gone, NO_CONTEXT)
    with pytest.raises(NotFoundError):
        await service.PauseSource(sources_pb2.PauseSourceRequest(name="line-2"), NO_CONTEXT)
    with pytest.raises(NotFoundError):
        await service.ResumeSource(sources_pb2.ResumeSourceRequest(name="line-2"), NO_CONTEXT)


async def test_pause_and_resume(service: SourceService) -> None:
    paused = await service.PauseSource(sources_pb2.PauseSourceRequest(name="line-1"), NO_CONTEXT)
    assert (paused.state, paused.config.paused) == (sources_pb2.SOURCE_STATE_PAUSED, True)
    resumed = await service.ResumeSource(sources_pb2.ResumeSourceRequest(name="line-1"), NO_CONTEXT)
    assert (resumed.state, resumed.config.paused) == (sources_pb2.SOURCE_STATE_LIVE, False)
