"""Decoders that hang in C, crash, grow or babble: each ends in the right state, and nobody else notices.

A plugin of these tests plays them. It is installed as any plugin is, for the worker processes and for this one.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from answers import Echo, until
from lensmount_server.frames import Want
from lensmount_server.hub import Hub
from lensmount_server.sources.connecting import SourceOptions
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.video.settings import Reconnect
from lensmount_server.workers.pool import PoolOptions, WorkerPool
from lensmount_server.workers.zygote import Zygote
from videos import write_clip

WANTS = (Want("defect"),)
PLUGIN = '''
import ctypes, os, time
import numpy as np
from lensmount_server.video.plugins import PluginPicture

libc = ctypes.CDLL(None)
hoard = []


def pictures(stop, count=None):
    while not stop.is_set() and count != 0:
        yield PluginPicture(np.zeros((32, 32, 3), np.uint8))
        count = None if count is None else count - 1
        time.sleep(0.02)


def fault(url, stop):
    yield from pictures(stop, 3)
    what = url.partition(":")[2]
    if what == "hangs":  # C code that never returns, as FFmpeg may
        libc.sleep(3600)
    elif what == "hangs-with-the-lock":  # ... and holds Python's lock
        ctypes.PyDLL(None).sleep(3600)
    elif what == "crashes":
        ctypes.string_at(0)
    elif what == "grows":
        for _ in pictures(stop):
            hoard.append(np.ones(20_000_000, np.uint8))
            yield PluginPicture(np.zeros((32, 32, 3), np.uint8))
    elif what == "raises":
        raise RuntimeError("the lens cap is on")
    elif what == "exits":
        os._exit(3)
    yield from pictures(stop)


fault.live = True


def once(url, stop):
    """Does it the first time only; a file remembers."""
    mark = url.partition(":")[2].partition("?")[2]
    if os.path.exists(mark):
        yield from pictures(stop)
    open(mark, "w").close()
    yield from fault(url.partition("?")[0], stop)


once.live = True
'''
QUICK = PoolOptions(most=1, watch_s=0.1, hang_s=1.0, silent_s=1.0, memory_mib=300, stop_s=0.5)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Workers that know the plugin; this process does too."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "faulty.py").write_text(PLUGIN)
    (folder / "faulty-1.dist-info").mkdir()
    (folder / "faulty-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1\n")
    entries = "[lensmount.sources]\nfault = faulty:fault\nonce = faulty:once\n"
    (folder / "faulty-1.dist-info" / "entry_points.txt").write_text(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        zygote = Zygote()
        yield zygote
        zygote.close()


@asynccontextmanager
async def managed(zygote: Zygote, options: PoolOptions = QUICK) -> AsyncIterator[tuple[SourceManager, WorkerPool]]:
    hub, pool = Hub(), WorkerPool(zygote, options)
    anywhere = SourceOptions(addresses=AddressPolicy(folders=(Path("/"),)))
    manager = SourceManager(Echo(), hub, pool, anywhere)
    try:
        yield manager, pool
    finally:
        await manager.close()
        await pool.close()


async def add(manager: SourceManager, name: str, url: str) -> None:
    await manager.add(SourceSpec(name, url, WANTS, loop=True, reconnect=Reconnect(50, 200)))


async def answered_more(manager: SourceManager, name: str, frames: int = 5) -> None:
    goal = manager.get(name).account.answered + frames
    await until(lambda: manager.get(name).account.answered >= goal)


async def sums_are_exact(manager: SourceManager) -> None:
    for status in manager.list():
        account = (await manager.pause(status.spec.name)).account
        assert account.in_flight == 0
        assert account.decoded == account.answered + account.dropped.frames


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "a.mp4", 10))


async def test_a_decoder_that_hangs_is_left_behind_and_its_neighbour_is_not_touched(
    zygote: Zygote, path: str, tmp_path: Path
) -> None:
    async with managed(zygote) as (manager, pool):
        await add(manager, "well", path)
        await answered_more(manager, "well")
        await add(manager, "ill", f"once:hangs?{tmp_path / 'mark'}")
        (shared,) = pool.workers
        await until(lambda: manager.get("ill").crashes == 1)
        await answered_more(manager, "ill")  # in another process
        await answered_more(manager, "well")
        assert (manager.get("well").crashes, manager.get("well").connections) == (0, 1)
        assert shared in pool.workers
        assert shared.condemned
        await manager.pause("well")
        await until(lambda: shared not in pool.workers)  # nothing else was in it
        await sums_are_exact(manager)


@pytest.mark.parametrize("fault", ["hangs-with-the-lock", "crashes", "exits", "grows"])
async def test_a_worker_that_must_end_costs_its_sources_a_reconnection(
    zygote: Zygote, path: str, tmp_path: Path, fault: str
) -> None:
    async with managed(zygote) as (manager, pool):
        await add(manager, "well", path)
        await answered_more(manager, "well")
        await add(manager, "ill", f"once:{fault}?{tmp_path / 'mark'}")
        (shared,) = pool.workers
        await until(lambda: manager.get("ill").crashes == 1)
        for name in ("ill", "well"):
            await answered_more(manager, name)
            assert manager.get(name).crashes == 1
        assert shared not in pool.workers
        assert [worker.feeds for worker in pool.workers] == [1, 1]  # nobody shares with them for a while
        await sums_are_exact(manager)


async def test_one_that_crashes_again_and_again_does_so_alone(zygote: Zygote, path: str) -> None:
    async with managed(zygote) as (manager, _):
        await add(manager, "well", path)
        await answered_more(manager, "well")
        await add(manager, "ill", "fault:crashes")
        await until(lambda: manager.get("ill").crashes >= 4)
        assert manager.get("well").crashes == 1
        assert manager.get("ill").state in (SourceState.RECONNECTING, SourceState.LIVE)
        await answered_more(manager, "well")
        await sums_are_exact(manager)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crashes", "SIGSEGV"),
        ("hangs", "hangs"),
        ("grows", "MiB"),
        ("hangs-with-the-lock", "did not answer|hangs"),
        ("raises", "the lens cap is on"),
        ("exits", "process ended"),
    ],
)
async def test_a_person_is_told_what_happened(zygote: Zygote, fault: str, reason: str) -> None:
    async with managed(zygote) as (manager, _):
        with manager._around.hub.subscribe() as subscription:
            await add(manager, "ill", f"fault:{fault}")
            async with asyncio.timeout(60):
                async for item in subscription:
                    if getattr(item.message, "state", None) is SourceState.RECONNECTING:
                        break
        assert re.search(reason, item.message.reason)  # type: ignore[union-attr]


async def test_a_source_that_hangs_can_be_removed_at_once(zygote: Zygote) -> None:
    async with managed(zygote, PoolOptions(stop_s=0.2, watch_s=0.1)) as (manager, pool):
        await add(manager, "ill", "fault:hangs")
        await answered_more(manager, "ill", 3)
        async with asyncio.timeout(10):
            await manager.remove("ill")
        await until(lambda: not pool.workers)
