"""Worker processes that die, stop, hang and are shared; what becomes of the frames in them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from answers import Echo, until
from lensmount.errors import UnavailableError
from lensmount_server.frames import Want
from lensmount_server.hub import Hub
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState
from lensmount_server.video.settings import Reconnect
from lensmount_server.workers.pool import PoolOptions, WorkerPool
from lensmount_server.workers.process import WorkerProcess
from lensmount_server.workers.zygote import Zygote
from videos import write_clip
from zygotes import shared_zygote

WANTS = (Want("defect"),)
QUICK = PoolOptions(watch_s=0.1, silent_s=1.0, idle_s=0.5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", 10))


@asynccontextmanager
async def managed(
    options: PoolOptions, zygote: Zygote | None = None
) -> AsyncIterator[tuple[SourceManager, WorkerPool]]:
    hub, pool = Hub(), WorkerPool(zygote or shared_zygote(), options)
    manager = SourceManager(Echo(0.001), hub, pool)
    try:
        yield manager, pool
    finally:
        await manager.close()
        await pool.close()


async def add(manager: SourceManager, path: str, *names: str) -> None:
    for name in names:
        await manager.add(SourceSpec(name, path, WANTS, loop=True, reconnect=Reconnect(50, 200)))
    for name in names:
        await answered_more(manager, name)


async def answered_more(manager: SourceManager, name: str, frames: int = 5) -> None:
    goal = manager.get(name).account.answered + frames
    await until(lambda: manager.get(name).account.answered >= goal)


def kill(worker: WorkerProcess, number: int = signal.SIGKILL) -> None:
    os.kill(worker.pid, number)


async def test_each_source_has_a_worker_until_there_are_enough(path: str) -> None:
    async with managed(PoolOptions(most=2)) as (manager, pool):
        await add(manager, path, "a", "b")
        assert [worker.feeds for worker in pool.workers] == [1, 1]
        await add(manager, path, "c", "d", "e")
        assert sorted(worker.feeds for worker in pool.workers) == [2, 3]


async def test_a_killed_worker_costs_its_source_a_moment_and_nobody_else_anything(path: str) -> None:
    async with managed(PoolOptions()) as (manager, pool):
        await add(manager, path, "a", "b")
        first, _ = pool.workers
        kill(first)
        await until(lambda: manager.get("a").crashes == 1)
        await answered_more(manager, "a")
        assert (manager.get("b").crashes, manager.get("b").connections) == (0, 1)
        for name in "ab":
            account = (await manager.pause(name)).account
            assert account.in_flight == 0
            assert account.decoded == account.answered + account.dropped.frames


async def test_who_shared_a_worker_that_died_runs_alone_afterwards(path: str) -> None:
    async with managed(PoolOptions(most=1)) as (manager, pool):
        await add(manager, path, "a", "b", "c")
        (shared,) = pool.workers
        kill(shared, signal.SIGSEGV)
        await until(lambda: all(manager.get(name).crashes == 1 for name in "abc"))
        for name in "abc":
            await answered_more(manager, name)
        assert [worker.feeds for worker in pool.workers] == [1, 1, 1]
        assert shared not in pool.workers


async def test_the_reason_says_how_it_ended(path: str) -> None:
    async with managed(PoolOptions()) as (manager, pool):
        hub = manager._around.hub
        with hub.subscribe() as subscription:
            await add(manager, path, "a")
            kill(pool.workers[0], signal.SIGSEGV)
            async with asyncio.timeout(30):
                async for item in subscription:
                    if getattr(item.message, "state", None) is SourceState.RECONNECTING:
                        break
        assert "SIGSEGV" in item.message.reason  # type: ignore[union-attr]


async def test_a_recording_that_brings_its_worker_down_again_and_again_is_given_up(path: str) -> None:
    async with managed(PoolOptions()) as (manager, pool):
        await add(manager, path, "a", "b")
        of_b = pool.workers[1]
        for crashes in range(1, 4):
            await until(lambda: any(worker is not of_b and worker.feeds for worker in pool.workers))
            for worker in pool.workers:
                if worker is not of_b:
                    kill(worker)
            await until(lambda at_least=crashes: manager.get("a").crashes >= at_least)  # type: ignore[misc]
        await until(lambda: manager.get("a").state is SourceState.FAILED)
        assert "3 times in a row" in manager.get("a").reason
        assert (manager.get("b").state, manager.get("b").crashes) == (SourceState.LIVE, 0)


async def test_a_worker_that_does_not_answer_is_ended(path: str) -> None:
    async with managed(QUICK) as (manager, pool):
        await add(manager, path, "a")
        (worker,) = pool.workers
        kill(worker, signal.SIGSTOP)
        await until(lambda: manager.get("a").crashes == 1)
        await answered_more(manager, "a")
        assert worker not in pool.workers


async def test_a_worker_without_feeds_is_let_go(path: str) -> None:
    async with managed(QUICK) as (manager, pool):
        await add(manager, path, "a")
        await manager.remove("a")
        assert len(pool.workers) == 1
        await until(lambda: not pool.workers)


async def test_without_its_zygote_a_source_waits_for_a_new_one(path: str) -> None:
    zygote = Zygote()
    async with managed(PoolOptions(), zygote) as (manager, pool):
        await add(manager, path, "a")
        zygote.close()
        await until(lambda: manager.get("a").crashes == 1)
        with pytest.raises(UnavailableError):
            async with pool.feed(None):  # type: ignore[arg-type]
                pass
        assert manager.get("a").state in (SourceState.RECONNECTING, SourceState.FAILED)


@pytest.mark.parametrize("seed", range(3))
async def test_the_account_is_exact_whenever_workers_are_killed(path: str, seed: int) -> None:
    chance = random.Random(seed)
    async with managed(PoolOptions(most=2)) as (manager, pool):
        await add(manager, path, "a", "b", "c", "d")
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            if pool.workers:
                kill(chance.choice(pool.workers))
        for name in "abcd":
            if manager.get(name).state is not SourceState.FAILED:
                await answered_more(manager, name)
            account = (await manager.pause(name)).account
            assert account.in_flight == 0
            assert account.decoded == account.answered + account.dropped.frames
            assert account.dropped.failed <= 4 * manager.get(name).crashes + 2


def test_everything_is_gone_after_closing(path: str, tmp_path: Path) -> None:
    async def live_through() -> None:
        async with managed(PoolOptions(most=2)) as (manager, _):
            await add(manager, path, "a", "b", "c")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one call, no objects that hold descriptors

    asyncio.run(live_through())
    before = descriptors()
    for _ in range(3):
        asyncio.run(live_through())
    assert descriptors() == before


async def test_a_worker_that_says_nonsense_is_ended(path: str) -> None:
    async with managed(QUICK) as (manager, pool):
        await add(manager, path, "a")
        (worker,) = pool.workers
        with pytest.raises(ValueError, match="no report"):
            worker._tell(b'["Handed", 0]')
        with pytest.raises(TypeError):
            worker._tell(b'["Handed", 0, 1, 1, 1, 1, 1, 1, "one", 0, false, 0, [0], [0], []]')
        worker.deaf = True
        await until(lambda: manager.get("a").crashes == 1)
        await answered_more(manager, "a")
        assert worker not in pool.workers
