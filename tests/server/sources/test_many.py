"""Many sources that come and go leave nothing behind: no memory, no descriptor, no process."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from answers import Echo, until
from lensmount_server.frames import Want
from lensmount_server.hub import Hub
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec
from lensmount_server.workers.pool import PoolOptions, WorkerPool
from lensmount_server.workers.process import WorkerProcess
from videos import write_clip
from zygotes import shared_zygote

SOURCES, ROUND, WORKERS = 64, 16, 4
MIB = 1 << 20


def descriptors(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - one call, no objects that hold descriptors


def own_bytes(process: int | str = "self") -> int:
    """Memory that this process shares with nobody."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines}
    return (int(sizes["Private_Dirty"]) + int(sizes["Private_Clean"])) * 1024


async def come_and_go(manager: SourceManager, path: str, names: list[str]) -> None:
    for name in names:
        await manager.add(SourceSpec(name, path, (Want("defect"),), loop=True))
    await until(lambda: all(status.account.answered for status in manager.list()))
    await asyncio.gather(*(manager.remove(name) for name in names))


def sizes(workers: list[WorkerProcess]) -> list[tuple[int, int]]:
    return [(descriptors(worker.pid), own_bytes(worker.pid)) for worker in workers]


async def test_sixty_four_in_a_minute_leave_nothing(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", 10))
    hub, pool = Hub(), WorkerPool(shared_zygote(), PoolOptions(most=WORKERS))
    manager = SourceManager(Echo(), hub, pool)
    names = [f"line-{number}" for number in range(ROUND)]
    await come_and_go(manager, path, names)  # what is made once is made now
    workers, before, own = pool.workers, descriptors(), own_bytes()
    of_workers = sizes(workers)
    started = time.monotonic()
    for _ in range(SOURCES // ROUND):
        await come_and_go(manager, path, names)
    assert time.monotonic() - started < 60
    assert pool.workers == workers
    assert [status.spec.name for status in manager.list()] == []
    assert descriptors() == before
    assert own_bytes() - own < 32 * MIB
    for (had, took), (has, takes) in zip(of_workers, sizes(workers), strict=True):
        assert has == had
        assert takes - took < 32 * MIB
    await manager.close()
    await pool.close()


async def test_the_measure_notices_what_is_left(tmp_path: Path) -> None:
    before, own = descriptors(), own_bytes()
    with (tmp_path / "left").open("w"):
        left = bytearray(os.urandom(64 * MIB))
        assert descriptors() == before + 1
        assert own_bytes() - own > 32 * MIB
    del left
