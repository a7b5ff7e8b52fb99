from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from lensmount.errors import AlreadyExistsError, InvalidInputError, LensmountError, NotFoundError
from lensmount.v1 import common_pb2, sources_pb2
from lensmount.v1.sources_pb2_grpc import SourceServiceStub
from lensmount_adapters.pictures import decode_picture
from lensmount_server.workers.remote import HandedPicture
from serving import PATIENCE_S, Kit, Served, eventually, own_tasks, refs, refused, serving
from videos import number_of, write_clip

Source: TypeAlias = sources_pb2.Source
Watched: TypeAlias = sources_pb2.WatchResultsResponse
Config: TypeAlias = sources_pb2.SourceConfig
NEWEST, EVERY_FRAME = common_pb2.DROP_POLICY_NEWEST, common_pb2.DROP_POLICY_EVERY_FRAME


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "line.mp4", 20)


async def add(server: Served, clip: Path | str, name: str = "line-1", **options: object) -> Source:
    told: dict[str, object] = {"tasks": refs("defect"), "drop_policy": EVERY_FRAME, **options}
    source = Config(name=name, url=str(clip), **told)  # type: ignore[arg-type]
    return await server.sources.AddSource(sources_pb2.AddSourceRequest(source=source))


async def get(server: Served, name: str = "line-1") -> Source:
    return await server.sources.GetSource(sources_pb2.GetSourceRequest(name=name))


async def until(server: Served, holds: Callable[[Source], object], name: str = "line-1") -> Source:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            source = await get(server, name)
            if holds(source):
                return source
            await asyncio.sleep(0.02)


class Watching:
    """An open subscription."""

    def __init__(self, server: Served, **options: object) -> None:
        request = sources_pb2.WatchResultsRequest(**options)  # type: ignore[arg-type]
        self.call = server.sources.WatchResults(request)

    async def next(self) -> Watched:
        """The next message."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, Watched)
        return message

    async def results(self, count: int) -> list[common_pb2.Result]:
        """So many results."""
        found: list[common_pb2.Result] = []
        while len(found) < count:
            message = await self.next()
            if message.HasField("result"):
                found.append(message.result)
        return found

    async def to_the_end(self) -> grpc.StatusCode:
        """How the call ends, once all is read."""
        while await asyncio.wait_for(self.call.read(), PATIENCE_S) is not grpc.aio.EOF:
            pass
        return await self.call.code()


async def test_a_file_is_read_to_its_end_and_accounted_for(live: Served, kit: Kit, clip: Path) -> None:
    added = await add(live, clip, tasks=refs("defect", "surface"))
    assert added.config.name == "line-1"
    assert added.state in (sources_pb2.SOURCE_STATE_CONNECTING, sources_pb2.SOURCE_STATE_LIVE)
    ended = await until(live, lambda source: source.state == sources_pb2.SOURCE_STATE_ENDED)
    assert (ended.decoded, ended.answered, ended.dropped) == (20, 20, common_pb2.Drops())
    assert (ended.width, ended.height) == (320, 240)
    assert ended.config == added.config


async def test_a_task_with_a_rate_looks_at_some_frames(live: Served, clip: Path) -> None:
    tasks = [*refs("defect"), common_pb2.TaskRef(task="surface", alias="live", max_fps=5)]
    watching = Watching(live, tasks=["surface"])
    added = await add(live, clip, tasks=tasks, deadline_ms=60_000, priority=-2)
    assert (added.config.deadline_ms, added.config.priority, added.config.tasks[1].max_fps) == (60_000, -2, 5)
    ended = await until(live, lambda source: source.state == sources_pb2.SOURCE_STATE_ENDED)
    assert (ended.decoded, ended.answered, ended.dropped) == (20, 20, common_pb2.Drops())
    results = await watching.results(3)
    assert [result.frame_index for result in results] == [0, 5, 15]
    assert [result.dropped_before.rate for result in results] == [0, 4, 9]


async def test_a_source_whose_only_task_has_a_rate_accounts_for_the_rest(live: Served, clip: Path) -> None:
    rated = [common_pb2.TaskRef(task="surface", max_fps=5)]
    await add(live, clip, tasks=rated, decode_effort=sources_pb2.DECODE_EFFORT_ALL)
    ended = await until(live, lambda source: source.state == sources_pb2.SOURCE_STATE_ENDED)
    assert (ended.decoded, ended.answered, ended.dropped) == (20, 3, common_pb2.Drops(rate=17))
    await add(live, clip, "line-2", tasks=rated)
    ended = await until(live, lambda source: source.state == sources_pb2.SOURCE_STATE_ENDED, "line-2")
    assert ended.skipped > 0
    assert (ended.answered, ended.answered + ended.dropped.rate + ended.skipped) == (3, 20)


async def test_results_and_states_are_watched(live: Served, clip: Path) -> None:
    await add(live, clip, "other", loop=True, tasks=refs("surface"))
    watching = Watching(live, tasks=["surface"], with_jpeg=True)
    await watching.results(1)
    await add(live, clip, loop=True, tasks=refs("defect", "surface"))
    results: list[common_pb2.Result] = []
    states: list[int] = []
    while len(results) < 45:
        message = await watching.next()
        if message.source.config.name == "line-1":
            states.append(message.source.state)
        elif message.result.source == "line-1":
            results.append(message.result)
    watching.call.cancel()
    assert states[:2] == [sources_pb2.SOURCE_STATE_CONNECTING, sources_pb2.SOURCE_STATE_LIVE]
    assert {result.adapter.task for result in results} == {"surface"}
    indices = [result.frame_index for result in results]
    assert indices == sorted(set(indices))
    assert [number_of(decode_picture(result.jpeg)) for result in results] == [index % 20 for index in indices]
    times = [result.pts_ns for result in results]
    assert times == sorted(set(times))


async def test_all_tasks_of_a_frame_show_the_same_picture(live: Served, clip: Path) -> None:
    watching = Watching(live, with_jpeg=True)
    await add(live, clip, tasks=refs("defect", "surface"))
    results = await watching.results(40)
    assert all(result.jpeg for result in results)
    assert len({result.frame_index for result in results}) == 20
    assert len({(result.frame_index, result.jpeg) for result in results}) == 20


async def test_whoever_asks_for_pictures_gets_one_with_each_result(live: Served, clip: Path) -> None:
    await add(live, clip, loop=True)
    await until(live, lambda source: source.answered > 3)
    for _ in range(5):
        watching = Watching(live, with_jpeg=True)
        assert all(result.jpeg for result in await watching.results(8))
        watching.call.cancel()


async def test_a_promotion_reaches_a_running_source(live: Served, kit: Kit, clip: Path) -> None:
    await live.client.register(kit.defect[1].folder)
    watching = Watching(live)
    await add(live, clip, loop=True)
    assert {result.adapter.version for result in await watching.results(5)} == {1}
    await live.client.set_alias("defect", 2)
    while (await watching.next()).result.adapter.version != 2:
        pass
    source = await get(live)
    assert source.state == sources_pb2.SOURCE_STATE_LIVE
    assert source.dropped == common_pb2.Drops()


async def test_the_defaults_of_a_source(live: Served, clip: Path) -> None:
    added = await add(live, clip, drop_policy=common_pb2.DROP_POLICY_UNSPECIFIED, loop=True)
    assert added.config.drop_policy == NEWEST
    assert list(added.config.tasks) == [common_pb2.TaskRef(task="defect", alias="live")]


async def test_what_a_source_was_told_is_told_back(live: Served, clip: Path) -> None:
    told = Config(
        transport=sources_pb2.TRANSPORT_UDP,
        pace=sources_pb2.PACE_FAST,
        decode_effort=sources_pb2.DECODE_EFFORT_ALL,
        rotation=180,
        region=sources_pb2.Region(left=0.25, top=0.5, width=0.5, height=0.5),
        queue_size=8,
        gate=sources_pb2.MotionGate(change=0.25, refresh_ms=700),
        reconnect=sources_pb2.Reconnect(first_ms=100, longest_ms=900),
    )
    fields = {field.name: value for field, value in told.ListFields()}
    added = await add(live, "rtsp://127.0.0.1:1/cam", paused=True, **fields)
    echoed = Config(**{field.name: getattr(added.config, field.name) for field, _ in told.ListFields()})
    assert echoed == told
    usual = (await add(live, clip, "usual")).config
    assert (usual.region, usual.gate) == (
        sources_pb2.Region(width=1, height=1),
        sources_pb2.MotionGate(refresh_ms=5_000),
    )


async def test_sources_are_listed_by_name_and_removed(live: Served, clip: Path) -> None:
    for name in ("b", "a"):
        await add(live, clip, name, loop=True)
    watching = Watching(live, sources=["a"])
    await watching.results(1)
    listed = await live.sources.ListSources(sources_pb2.ListSourcesRequest())
    assert [source.config.name for source in listed.sources] == ["a", "b"]
    await live.sources.RemoveSource(sources_pb2.RemoveSourceRequest(name="a"))
    assert await watching.to_the_end() is grpc.StatusCode.OK
    listed = await live.sources.ListSources(sources_pb2.ListSourcesRequest())
    assert [source.config.name for source in listed.sources] == ["b"]
    assert isinstance(await refused(live.sources.GetSource(sources_pb2.GetSourceRequest(name="a"))), NotFoundError)


async def test_a_source_that_is_removed_leaves_no_task_behind(live: Served, clip: Path) -> None:
    before = own_tasks()
    watching = Watching(live)
    await add(live, clip, loop=True)
    await watching.results(3)
    watching.call.cancel()
    await live.sources.RemoveSource(sources_pb2.RemoveSourceRequest(name="line-1"))
    await eventually(lambda: not own_tasks() - before, "every task of the source has ended")


async def test_a_watcher_that_goes_away_leaves_no_task_behind(live: Served, clip: Path) -> None:
    await add(live, clip, loop=True)
    await until(live, lambda source: source.answered > 1)
    watching = [Watching(live) for _ in range(4)]
    for each in watching:
        await each.results(1)
    started = len(own_tasks())
    for each in watching:
        each.call.cancel()
    await eventually(lambda: len(own_tasks()) <= started - len(watching), "their tasks have ended")
    assert await Watching(live).results(1)


async def test_a_slow_watcher_loses_its_own_oldest_results_and_is_told(
    live: Served, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HandedPicture, "jpeg", lambda _: bytes(4 << 20))
    await add(live, clip, loop=True)
    slow = Watching(live, queue_size=2, with_jpeg=True)
    (first,) = await slow.results(1)
    await until(live, lambda source: source.answered > first.frame_index + 60)
    lost, indices = 0, [first.frame_index]
    while not lost:
        message = await slow.next()
        lost += message.lost
        if message.HasField("result"):
            indices.append(message.result.frame_index)
    slow.call.cancel()
    assert lost == indices[-1] - indices[0] - (len(indices) - 1)
    assert (await get(live)).dropped == common_pb2.Drops()


Request = sources_pb2.AddSourceRequest
BAD: dict[str, tuple[dict[str, object], type[LensmountError], str]] = {
    "no name": ({"name": ""}, InvalidInputError, "name"),
    "a bad name": ({"name": "line 1"}, InvalidInputError, "name"),
    "a long name": ({"name": "x" * 65}, InvalidInputError, "name"),
    "no address": ({"url": ""}, InvalidInputError, "url"),
    "no such file": ({"url": "/nowhere/line.mp4"}, InvalidInputError, "url"),
    "a folder": ({"url": "/"}, InvalidInputError, "url"),
    "another protocol": ({"url": "ftp://127.0.0.1/line.mp4"}, InvalidInputError, "url"),
    "a protocol of FFmpeg": ({"url": "concat:/etc/passwd|/etc/hosts"}, InvalidInputError, "url"),
    "no host": ({"url": "rtsp:///stream"}, InvalidInputError, "url"),
    "a deadline in days": ({"deadline_ms": 90_000_000}, InvalidInputError, "deadline_ms"),
    "a priority above all": ({"priority": 11}, InvalidInputError, "priority"),
    "no such transport": ({"transport": 9}, InvalidInputError, "transport"),
    "no such policy": ({"drop_policy": 9}, InvalidInputError, "drop_policy"),
    "no tasks": ({"tasks": []}, InvalidInputError, "tasks"),
    "an unknown task": ({"tasks": refs("weather")}, NotFoundError, "tasks"),
    "an unknown version": ({"tasks": [common_pb2.TaskRef(task="defect", version=9)]}, NotFoundError, "adapter"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_source_that_can_not_be_is_refused(live: Served, clip: Path, name: str) -> None:
    changes, kind, field = BAD[name]
    told: dict[str, object] = {"name": "line-1", "url": str(clip), "tasks": refs("defect"), **changes}
    request = Request(source=Config(**told))  # type: ignore[arg-type]
    error = await refused(live.sources.AddSource(request))
    assert type(error) is kind
    assert error.field == field
    assert error.fix
    assert not (await live.sources.ListSources(sources_pb2.ListSourcesRequest())).sources


async def test_a_name_that_is_taken(live: Served, clip: Path) -> None:
    await add(live, clip, loop=True)
    source = Config(name="line-1", url=str(clip), tasks=refs("surface"))
    error = await refused(live.sources.AddSource(Request(source=source)))
    assert isinstance(error, AlreadyExistsError)
    assert (error.field, error.value) == ("name", "line-1")
    assert error.fix
    assert [task.task for task in (await get(live)).config.tasks] == ["defect"]


async def test_a_file_that_is_no_video_fails_with_a_reason(live: Served, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    await add(live, tmp_path / "text.mp4", "text")
    await add(live, clip, loop=True)
    failed = await until(live, lambda source: source.state == sources_pb2.SOURCE_STATE_FAILED, "text")
    assert "Fix:" in failed.reason
    assert "Traceback" not in failed.reason
    assert (await until(live, lambda source: source.answered > 3)).state == sources_pb2.SOURCE_STATE_LIVE


async def test_a_password_is_not_shown(live: Served) -> None:
    source = Config(name="camera", url="rtsp://user:secret@127.0.0.1:9/stream", tasks=refs("defect"))
    added = await live.sources.AddSource(Request(source=source))
    assert "secret" not in str(added)
    assert "secret" not in str(await get(live, "camera"))
    assert added.config.url == "rtsp://user:***@127.0.0.1:9/stream"


@pytest.mark.parametrize(
    ("request_", "kind", "field"),
    [
        (sources_pb2.WatchResultsRequest(queue_size=10_001), InvalidInputError, "queue_size"),
        (sources_pb2.WatchResultsRequest(queue_size=2**32 - 1), InvalidInputError, "queue_size"),
        (sources_pb2.WatchResultsRequest(sources=["nowhere"]), NotFoundError, "name"),
    ],
)
async def test_a_subscription_that_can_not_be_is_refused(
    live: Served, request_: sources_pb2.WatchResultsRequest, kind: type[LensmountError], field: str
) -> None:
    error = await refused(live.sources.WatchResults(request_))
    assert (type(error), error.field, bool(error.fix)) == (kind, field, True)


async def test_what_is_not_there(live: Served) -> None:
    for call in (
        live.sources.GetSource(sources_pb2.GetSourceRequest(name="nowhere")),
        live.sources.RemoveSource(sources_pb2.RemoveSourceRequest(name="nowhere")),
    ):
        error = await refused(call)
        assert (type(error), error.field, error.value) == (NotFoundError, "name", "nowhere")
        assert error.fix


async def test_a_server_that_stops_ends_its_watchers(kit: Kit, clip: Path, tmp_path: Path) -> None:
    async with serving(kit, tmp_path / "data") as server:
        await server.client.register(kit.defect[0].folder, alias="live")
        channel = grpc.aio.insecure_channel(server.address)
        watching = Watching(replace(server, sources=SourceServiceStub(channel)))
        await add(server, clip, loop=True)
        await watching.results(1)
    assert await watching.to_the_end() is grpc.StatusCode.OK
    await channel.close()
