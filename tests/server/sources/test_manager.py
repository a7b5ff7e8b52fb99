from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import pytest

from answers import Echo, until
from lensmount.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LensmountError,
    NotFoundError,
    ServerError,
    UnavailableError,
)
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.hub import Hub, Subscription
from lensmount_server.scheduling import MAX_BATCH, Terms
from lensmount_server.sources.connecting import SourceOptions
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import DropPolicy, Drops, StreamResult
from lensmount_server.workers.pool import WorkerPool
from videos import clip, write_clip
from zygotes import shared_zygote

WANTS = (Want("defect"), Want("surface"))
OPTIONS = SourceOptions(stalled_s=60.0)
EVERY_FRAME = DropPolicy.EVERY_FRAME


@asynccontextmanager
async def managed(answerer: Echo, options: SourceOptions = OPTIONS) -> AsyncIterator[tuple[SourceManager, Hub]]:
    hub = Hub()
    pool = WorkerPool(shared_zygote())
    manager = SourceManager(answerer, hub, pool, options)
    try:
        yield manager, hub
    finally:
        try:
            await manager.close()
            await until(lambda: feeds(manager) == 0)  # one that was being closed goes on alone
        finally:
            await pool.close()
            hub.close()


def feeds(manager: SourceManager) -> int:
    """How many are open in worker processes."""
    return sum(worker.feeds for worker in manager._around.pool.workers)


async def follow(subscription: Subscription, last: SourceState) -> tuple[list[SourceStatus], list[StreamResult]]:
    """States and results until a source reaches the state `last`."""
    states: list[SourceStatus] = []
    results: list[StreamResult] = []
    async with asyncio.timeout(60):
        async for item in subscription:
            if isinstance(item.message, StreamResult):
                results.append(item.message)
                continue
            states.append(item.message)
            if item.message.state is last:
                break
    return states, results


def names(states: list[SourceStatus]) -> list[str]:
    return [status.state.name for status in states]


async def test_a_file_is_answered_to_its_end(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20)
    async with managed(Echo()) as (manager, hub):
        with hub.subscribe() as subscription:
            added = await manager.add(SourceSpec("line-1", str(path), WANTS, EVERY_FRAME))
            states, results = await follow(subscription, SourceState.ENDED)
        assert added.state is SourceState.CONNECTING
        assert names(states) == ["CONNECTING", "LIVE", "ENDED"]
        assert [(each.frame_index, each.answer.adapter.task) for each in results] == [
            (index, want.task) for index in range(20) for want in WANTS
        ]
        final = manager.get("line-1")
        assert (final.state, final.width, final.height) == (SourceState.ENDED, 320, 240)
        account = final.account
        assert (account.decoded, account.answered, account.in_flight) == (20, 20, 0)
        assert account.dropped == Drops()


async def test_a_loop_goes_on_and_has_a_rate(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 5)
    async with managed(Echo()) as (manager, _):
        await manager.add(SourceSpec("a", str(path), WANTS, loop=True))
        await until(lambda: manager.get("a").account.answered > 20 and manager.get("a").fps > 0)
        status = manager.get("a")
        assert status.state is SourceState.LIVE
        assert 0 < status.fps < 200


async def test_a_slow_answerer_gets_the_newest_frames_and_the_account_closes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 40)
    async with managed(Echo(0.1)) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS[:1]))
            _, results = await follow(subscription, SourceState.ENDED)
        account = manager.get("a").account
    assert account.decoded == 40 == account.answered + account.dropped.superseded
    assert account.dropped.superseded > 0
    assert results[-1].frame_index == 39
    position = -1
    for result in results:
        assert result.frame_index - position - 1 == result.dropped_before.superseded
        position = result.frame_index


async def test_every_frame_waits_for_a_slow_answerer(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 30)
    async with managed(Echo(0.05)) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS[:1], EVERY_FRAME))
            _, results = await follow(subscription, SourceState.ENDED)
    assert [result.frame_index for result in results] == list(range(30))


async def test_a_slow_answerer_is_not_the_fault_of_the_source(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)
    async with managed(Echo(3.0), SourceOptions(stalled_s=1.0)) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS[:1], EVERY_FRAME))
            states, _ = await follow(subscription, SourceState.ENDED)
    assert names(states) == ["CONNECTING", "LIVE", "ENDED"]


async def test_broken_packets_are_in_the_account() -> None:
    async with managed(Echo()) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(clip("corrupted.mp4")), WANTS[:1], EVERY_FRAME))
            _, results = await follow(subscription, SourceState.ENDED)
        account = manager.get("a").account
    assert (account.decoded, account.answered) == (49, 49)
    assert account.dropped == Drops(decode=1)
    assert sum(result.dropped_before.decode for result in results) == 1


async def test_sources_run_side_by_side(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)
    async with managed(Echo()) as (manager, hub):
        with hub.subscribe(["b"]) as only_b:
            for name in ("c", "a", "b"):
                await manager.add(SourceSpec(name, str(path), WANTS, EVERY_FRAME))
            assert [status.spec.name for status in manager.list()] == ["a", "b", "c"]
            _, results = await follow(only_b, SourceState.ENDED)
            assert {result.source for result in results} == {"b"}
        await until(lambda: all(status.account.answered == 10 for status in manager.list()))


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 65, "line\n1"])
async def test_names_are_checked(tmp_path: Path, name: str) -> None:
    async with managed(Echo()) as (manager, _):
        with pytest.raises(InvalidInputError) as caught:
            await manager.add(SourceSpec(name, str(write_clip(tmp_path / "a.mp4", 1)), WANTS))
        assert caught.value.field == "name"
        assert manager.list() == []


async def test_what_can_not_be_added(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", 5))
    async with managed(Echo()) as (manager, _):
        with pytest.raises(InvalidInputError, match="task"):
            await manager.add(SourceSpec("a", path, ()))
        with pytest.raises(InvalidInputError, match="rtsp://"):
            await manager.add(SourceSpec("a", "ftp://camera/x.mp4", WANTS))
        await manager.add(SourceSpec("a", path, WANTS, loop=True))
        with pytest.raises(AlreadyExistsError):
            await manager.add(SourceSpec("a", path, WANTS))
        assert len(manager.list()) == 1
    with pytest.raises(UnavailableError):
        await manager.add(SourceSpec("b", path, WANTS))


async def test_unknown_sources_are_not_found() -> None:
    async with managed(Echo()) as (manager, _):
        with pytest.raises(NotFoundError):
            manager.get("a")
        with pytest.raises(NotFoundError):
            await manager.remove("a")


@pytest.mark.parametrize("policy", DropPolicy)
@pytest.mark.parametrize("delay_s", [0.0, 60.0])
async def test_removing_ends_the_thread_and_the_subscriptions(
    tmp_path: Path, policy: DropPolicy, delay_s: float
) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)
    async with managed(Echo(delay_s)) as (manager, hub):
        with hub.subscribe(["a"]) as mine, hub.subscribe() as everything:
            await manager.add(SourceSpec("a", str(path), WANTS, policy, loop=True))
            await until(lambda: manager.get("a").account.decoded > 5)
            await manager.remove("a")
            assert feeds(manager) == 0
            assert mine.closed
            assert not everything.closed
            async with asyncio.timeout(30):
                assert [item async for item in mine]
        assert manager.list() == []
        await manager.add(SourceSpec("a", str(path), WANTS))  # the name is free again


async def test_removing_does_not_wait_for_the_next_frame(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 3, fps=Fraction(1, 8))
    async with managed(Echo()) as (manager, _):
        await manager.add(SourceSpec("a", str(path), WANTS))
        await until(lambda: manager.get("a").account.answered == 1)
        await manager.remove("a")
        assert feeds(manager) == 0


async def test_a_file_that_is_no_video_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no video")
    async with managed(Echo()) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS))
            states, _ = await follow(subscription, SourceState.FAILED)
        assert names(states) == ["CONNECTING", "FAILED"]
        assert "of a kind that this server reads" in states[-1].reason
        assert feeds(manager) == 0


async def test_a_source_whose_task_is_gone_has_failed_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)

    def fails(frame: Frame) -> LensmountError | None:
        if frame.index == 25:
            answerer.gone |= {want.task for want in WANTS}
        return NotFoundError("no such task", field="task", value="defect") if answerer.gone else None

    answerer = Echo(fails=fails)
    async with managed(answerer) as (manager, hub):
        with hub.subscribe(["a"]) as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS, EVERY_FRAME, loop=True))
            states, _ = await follow(subscription, SourceState.FAILED)
        assert names(states) == ["CONNECTING", "LIVE", "FAILED"]
        assert "no such task" in states[-1].reason
        await until(lambda: not feeds(manager))
        account = manager.get("a").account
        assert account.decoded == account.answered + account.dropped.frames
        answerer.fails = None
        answerer.gone.clear()
        await manager.add(SourceSpec("b", str(path), WANTS, loop=True))
        await until(lambda: manager.get("b").account.answered > 30)


async def test_other_errors_cost_frames_not_the_source(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20)
    answerer = Echo(fails=lambda frame: ServerError("broken") if frame.index % 2 else None)
    async with managed(answerer) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(path), WANTS[:1], EVERY_FRAME, loop=True))
            await until(lambda: manager.get("a").account.answered > 20)
            status = manager.get("a")
            assert status.state is SourceState.LIVE
            assert "broken" in status.reason
            assert status.account.dropped.failed > 10
            item = await anext(subscription)
            assert isinstance(item.message, SourceStatus)


async def test_a_defect_fails_the_source_and_does_not_hang_it(tmp_path: Path) -> None:
    class Broken(Echo):
        async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
            raise ZeroDivisionError(frame, wants, terms)

    async with managed(Broken()) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("a", str(write_clip(tmp_path / "a.mp4", 5)), WANTS))
            states, _ = await follow(subscription, SourceState.FAILED)
        assert "log" in states[-1].reason
        assert "ZeroDivision" not in states[-1].reason
        await until(lambda: not feeds(manager))


async def test_nothing_is_left_after_closing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # one call, no objects that hold descriptors

    async def live_through() -> None:
        async with managed(Echo(0.001)) as (manager, _):
            for name in "abcd":
                await manager.add(SourceSpec(name, str(path), WANTS, loop=True))
            await until(lambda: all(status.account.answered > 5 for status in manager.list()))

    await live_through()
    before = descriptors(), asyncio.all_tasks()
    for _ in range(3):
        await live_through()
    assert (descriptors(), asyncio.all_tasks()) == before


async def test_closing_while_connecting_leaves_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)
    async with managed(Echo()) as (manager, _):
        await manager.add(SourceSpec("a", str(path), WANTS))
    assert feeds(manager) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(("policy", "most"), [(EVERY_FRAME, 2 * MAX_BATCH), (DropPolicy.NEWEST, 2)])
async def test_the_next_batch_gathers_while_one_computes(tmp_path: Path, policy: DropPolicy, most: int) -> None:
    path = write_clip(tmp_path / "a.mp4", 2 * MAX_BATCH + 8, fps=500)
    answerer = Echo(delay_s=0.5)
    async with managed(answerer) as (manager, hub):
        with hub.subscribe() as subscription:
            await manager.add(SourceSpec("line-1", str(path), WANTS, policy))
            await follow(subscription, SourceState.ENDED)
    assert answerer.most_asking == most
