"""What goes when a version, an alias or a task is deleted, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from lensmount.errors import IncompatibleError, LensmountError, NotFoundError
from lensmount.v1 import adapters_pb2, common_pb2, sources_pb2
from registering import SHOT, Ref, asking, events, promote, register, roll_back
from serving import CLOSE, PATIENCE_S, Kit, Served, kept, refs, refused, scores_of, told
from videos import write_clip

Delete = adapters_pb2.DeleteAdapterRequest
ENDED, FAILED, LIVE = (
    sources_pb2.SOURCE_STATE_ENDED, sources_pb2.SOURCE_STATE_FAILED, sources_pb2.SOURCE_STATE_LIVE,
)  # fmt: skip
EVERY_FRAME = common_pb2.DROP_POLICY_EVERY_FRAME


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips") / "line.mp4", 20)


async def delete(server: Served, version: int) -> None:
    await server.adapters.DeleteAdapter(Delete(task="defect", version=version))


async def delete_task(server: Served, task: str = "defect") -> int:
    return (await server.adapters.DeleteTask(adapters_pb2.DeleteTaskRequest(task=task))).versions


async def delete_alias(server: Served, alias: str = "live") -> None:
    await server.adapters.DeleteAlias(adapters_pb2.DeleteAliasRequest(task="defect", alias=alias))


async def test_a_deleted_version_answers_no_more_and_its_number_is_not_given_again(server: Served, kit: Kit) -> None:
    for version in kit.defect:
        await register(server, version)
    await promote(server, 1)
    async with (
        asking(server, Ref(task="defect", version=3)) as third,
        asking(server, Ref(task="defect", version=2), Ref(task="defect")) as both,
        asking(server, Ref(task="defect")) as live,
    ):
        assert (await third.version(), await live.version()) == (3, 1)
        await both.ask()
        await delete(server, 3)
        await delete(server, 2)
        for stream, value in ((third, "defect:3"), (both, "defect:2")):
            error = await stream.error()
            assert isinstance(error, NotFoundError)
            assert (error.field, error.value) == ("tasks", value)
            assert "deleted" in error.message
            assert "lensmount adapters list" in error.fix
        assert await live.version() == 1
        error = await refused(server.adapters.DeleteAdapter(Delete(task="defect", version=3)))
        assert isinstance(error, NotFoundError)
        assert "deleted" in error.message
        assert len(kept(server.data_dir).blobs) == 1
        assert kept(server.data_dir).whole
        again = await register(server, kit.defect[2], "live")
        assert not again.already_registered
        assert (again.adapter.version.version, again.alias.previous_version) == (4, 1)
        (result,) = await live.ask()
        assert result.adapter == again.adapter.version
        assert scores_of(result) == pytest.approx(kit.defect[2].scores(SHOT), abs=CLOSE)
    async with asking(server, Ref(task="defect", version=4)) as stream:
        assert await stream.version() == 4


async def test_what_an_alias_points_at_goes_after_the_alias(live: Served, kit: Kit) -> None:
    await promote(live, 1, "canary")
    error = await refused(live.adapters.DeleteAdapter(Delete(task="defect", version=1)))
    assert isinstance(error, IncompatibleError)
    assert "canary" in error.message
    assert "live" in error.message
    async with asking(live, Ref(task="defect", alias="canary")) as stream, asking(live, *refs("defect")) as other:
        await stream.ask()
        await delete_alias(live, "canary")
        gone = await stream.error()
        assert isinstance(gone, NotFoundError)
        assert (gone.field, gone.value) == ("tasks", "defect@canary")
        assert "lensmount promote defect" in gone.fix
        assert await other.version() == 1
        await delete_alias(live)
        gone = await other.error()
        assert (type(gone), gone.value) == (NotFoundError, "defect")
    await delete(live, 1)
    error = await refused(live.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=Ref(task="defect"))))
    assert isinstance(error, NotFoundError)


async def test_an_alias_that_is_set_anew_has_no_past(live: Served, kit: Kit) -> None:
    await register(live, kit.defect[1], "live")
    await delete_alias(live)
    assert (await promote(live, 2, etag="0")).previous_version == 0
    with pytest.raises(grpc.aio.AioRpcError):
        await roll_back(live)


async def test_streams_and_watchers_of_a_deleted_task_end_and_others_go_on(live: Served, kit: Kit, clip: Path) -> None:
    await add(live, clip, "line-1", "surface", "defect")
    only, both = await watching(live, "defect"), await watching(live, "defect", "surface")
    async with (
        asking(live, *refs("surface", "defect")) as one,
        asking(live, Ref(task="defect", version=1)) as two,
        asking(live, *refs("grade")) as other,
    ):
        for stream in (one, two, other):
            await stream.ask()
        assert await delete_task(live) == 1
        for stream, value in ((one, "defect"), (two, "defect:1")):
            error = await stream.error()
            assert (type(error), error.field, error.value) == (NotFoundError, "tasks", value)
            assert error.fix
        assert [result.adapter.task for result in await other.ask()] == ["grade"]
    error = await ended(only)
    assert (type(error), error.field, error.value) == (NotFoundError, "tasks", "defect")
    assert "deleted" in error.message
    assert error.fix
    found = {(await next_result(both)).adapter.task for _ in range(40)}
    assert "surface" in found
    assert {(await next_result(both)).adapter.task for _ in range(40)} == {"surface"}
    both.cancel()
    assert [event.detail for event in await events(live, "defect")][-1] == "with its task"
    listed = await live.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest())
    assert {adapter.version.task for adapter in listed.adapters} == {"surface", "grade"}


async def test_who_watches_a_task_goes_on_while_it_has_versions(live: Served, kit: Kit, clip: Path) -> None:
    await live.sources.AddSource(
        sources_pb2.AddSourceRequest(
            source=sources_pb2.SourceConfig(
                name="line-1", url=str(clip), tasks=[Ref(task="defect", version=1)], loop=True
            )
        )
    )
    watcher = await watching(live, "defect")
    await next_result(watcher)
    await delete_alias(live)
    for _ in range(40):
        assert (await next_result(watcher)).adapter.version == 1
    assert await delete_task(live) == 1
    error = await ended(watcher)
    assert (type(error), error.value) == (NotFoundError, "defect")


async def test_a_source_goes_on_with_its_other_task_and_gets_the_first_back(live: Served, kit: Kit, clip: Path) -> None:
    await add(live, clip, "line-1", "surface", "defect")
    await add(live, clip, "line-2", "defect")
    watcher = await watching(live)
    await until(live, "line-1", lambda source: source.answered > 3)
    await until(live, "line-2", lambda source: source.answered > 3)
    await delete_task(live)
    failed = await until(live, "line-2", lambda source: source.state == FAILED and balanced(source))
    assert "defect" in failed.reason
    before = await until(live, "line-1", lambda source: source.reason)
    assert before.state == LIVE
    assert "defect" in before.reason
    await until(live, "line-1", lambda source: source.answered > before.answered + 5)
    registered = await register(live, kit.defect[1], "live")
    assert registered.adapter.version.version == 2
    while (result := await next_result(watcher)).adapter != registered.adapter.version:
        assert result.adapter.task in ("surface", "defect")
    assert result.source == "line-1"
    back = await until(live, "line-1", lambda source: not source.reason)
    assert back.state == LIVE
    paused = await live.sources.PauseSource(sources_pb2.PauseSourceRequest(name="line-1"))
    assert (await until(live, "line-1", balanced)).answered >= paused.answered
    await live.sources.RemoveSource(sources_pb2.RemoveSourceRequest(name="line-2"))
    await add(live, clip, "line-3", "defect", loop=False)
    await until(live, "line-3", lambda source: source.state == ENDED and balanced(source))
    watcher.cancel()


def balanced(source: sources_pb2.Source) -> bool:
    """Every decoded frame was answered or is counted among the lost."""
    dropped = sum(count for field, count in source.dropped.ListFields() if field.name != "decode")
    return bool(source.decoded == source.answered + dropped)


async def add(server: Served, clip: Path, name: str, *tasks: str, loop: bool = True) -> None:
    config = sources_pb2.SourceConfig(name=name, url=str(clip), tasks=refs(*tasks), loop=loop, drop_policy=EVERY_FRAME)
    await server.sources.AddSource(sources_pb2.AddSourceRequest(source=config))


async def until(server: Served, name: str, holds: Callable[[sources_pb2.Source], object]) -> sources_pb2.Source:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            source = await server.sources.GetSource(sources_pb2.GetSourceRequest(name=name))
            if holds(source):
                return source
            await asyncio.sleep(0.02)


Watch = grpc.aio.UnaryStreamCall[sources_pb2.WatchResultsRequest, sources_pb2.WatchResultsResponse]


async def watching(server: Served, *tasks: str) -> Watch:
    """A subscription."""
    return server.sources.WatchResults(sources_pb2.WatchResultsRequest(tasks=tasks, queue_size=10_000))


async def next_result(watch: Watch) -> common_pb2.Result:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await watch.read()
            assert isinstance(found, sources_pb2.WatchResultsResponse)
            if found.HasField("result"):
                return found.result


async def ended(watch: Watch) -> LensmountError:
    """What a subscription ends with, when all is read."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(drained(watch), PATIENCE_S)
    return told(caught.value)


async def drained(watch: Watch) -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass
