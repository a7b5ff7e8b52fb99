"""`lensmount bench capacity`: how many streams, tasks and adapters this machine holds."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.timing import Timed, in_turns
from lensmount_server.bench import specimens
from lensmount_server.bench.memory import rss_bytes
from lensmount_server.bench.packages import keep, serving, shots
from lensmount_server.bench.setting import Setting, setting_of
from lensmount_server.catalog import Catalog
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.plan import plan
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Frame, Still, Want
from lensmount_server.registry import Registry
from lensmount_server.scheduling import measure_overhead

FRAMES, RANK, BLOCKS = 8, 16, 4
TASKS = (1, 2, 4, 8)
FPS = 25
ROUNDS = 9
COLD = 64
# Adapters after which every thread and buffer of the path is there.
FIRST = 8

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Streams:
    """What so many tasks, each with LoRA in the last blocks, leave of the machine."""

    tasks: int
    ms_per_frame: float
    frames_per_second: float
    streams_at_25_fps: float


@dataclass(frozen=True)
class Report(Setting):
    """What one run found. Latencies are from the question to the answer, adapter loaded from the disk in between."""

    streams: tuple[Streams, ...]
    registered: int
    hot: int
    cold_to_first_row_p50_ms: float
    cold_to_first_row_p95_ms: float
    adapter_bytes: int
    memory_per_adapter_ratio: float
    list_page_ms: float
    scheduler_us_per_row: float


def measure(settings: EngineSettings, backbone: str, registered: int, hot: int, progress: Progress) -> Report:
    """Run the bench; writing and registering the adapters takes most of the time."""
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as scratch:
        return asyncio.run(_measure(settings, backbone, registered, hot, Path(scratch), progress))


async def _measure(
    settings: EngineSettings, name: str, registered: int, hot: int, scratch: Path, progress: Progress
) -> Report:
    progress("loading the backbone")
    backbone = specimens.backbone_of(name)
    engine = await asyncio.to_thread(open_engine, backbone, replace(settings, merge_after=0))
    streams = tuple(_streams(engine, progress))
    engine.close()
    engine = await asyncio.to_thread(open_engine, backbone, replace(settings, merged_mib=0))
    await asyncio.to_thread(_register, backbone, scratch, registered, hot, progress)
    async with serving(engine, scratch / "data", hot) as catalog:
        progress("asking for adapters that are on the disk only")
        ratio, size = await _memory(catalog, backbone, hot)
        cold = await _cold(catalog, backbone, hot)
        start = time.perf_counter()
        await asyncio.to_thread(catalog.registry.page, 100)
        page_ms = (time.perf_counter() - start) * 1e3
    setting = asdict(setting_of(engine.executor, name))
    engine.close()
    return Report(
        **setting,
        streams=streams,
        registered=registered,
        hot=hot,
        cold_to_first_row_p50_ms=round(median(cold), 1),
        cold_to_first_row_p95_ms=round(quantiles(cold, n=20, method="inclusive")[-1], 1),
        adapter_bytes=size,
        memory_per_adapter_ratio=round(ratio, 3),
        list_page_ms=round(page_ms, 2),
        scheduler_us_per_row=round(measure_overhead().us_per_row, 1),
    )


def _streams(engine: Engine, progress: Progress) -> list[Streams]:
    backbone = engine.backbone
    adapters = [specimens.lora_adapter(backbone, _tail(backbone), RANK, 1000 + seed) for seed in range(max(TASKS))]
    for adapter in adapters:
        engine.mount(adapter)
    engine.settle()
    pictures = specimens.pictures(backbone, FRAMES)
    sides: dict[str, Timed] = {}
    for tasks in TASKS:
        (work,) = plan((frame, adapter) for frame in range(FRAMES) for adapter in adapters[:tasks])
        sides[str(tasks)] = partial(engine.executor.run, work, pictures)
    done = None
    for done in in_turns(sides, ROUNDS):
        progress(f"streams: round {len(done.ms['1'])} of {ROUNDS}")
    for adapter in adapters:
        engine.unmount(adapter.content_hash)
    per_frame = {tasks: done.of(str(tasks)).median / FRAMES for tasks in TASKS} if done else {}
    return [
        Streams(tasks, round(ms, 2), round(1e3 / ms, 1), round(1e3 / ms / FPS, 1)) for tasks, ms in per_frame.items()
    ]


def _register(backbone: Backbone, scratch: Path, count: int, hot: int, progress: Progress) -> None:
    """Fill a registry: LoRA for those that will be asked for, heads for the rest."""
    registry = Registry(scratch / "data")
    for number in range(count):
        if number < hot + COLD:
            adapter = specimens.lora_adapter(backbone, _tail(backbone), RANK, number)
        else:
            adapter = specimens.head_adapter(backbone, number)
        keep(registry, scratch / "package", backbone, adapter, f"task-{number}")
        progress(f"adapter {number + 1:,} of {count:,}")
    registry.close()


async def _memory(catalog: Catalog, backbone: Backbone, hot: int) -> tuple[float, int]:
    """What a hot adapter adds to this process through its tensors' bytes, and those bytes."""
    frame = Frame(Still(shots(backbone, 1)[0]))
    for number in range(FIRST):
        await catalog.answer(frame, [Want(f"task-{number}")])
    before, state = rss_bytes(), catalog.residency.state()
    for number in range(FIRST, hot):
        await catalog.answer(frame, [Want(f"task-{number}")])
    after = catalog.residency.state()
    added = max(after.size_bytes - state.size_bytes, 1)
    return (rss_bytes() - before) / added, after.size_bytes // max(after.hot, 1)


async def _cold(catalog: Catalog, backbone: Backbone, hot: int) -> list[float]:
    """Milliseconds to the first row of adapters that are on the disk only."""
    frame, spent = Frame(Still(shots(backbone, 1)[0])), []
    for number in range(hot, hot + COLD):
        start = time.perf_counter()
        await catalog.answer(frame, [Want(f"task-{number}")])
        spent.append((time.perf_counter() - start) * 1e3)
    return spent


def _tail(backbone: Backbone) -> range:
    last = len(backbone.segments) - 1
    return range(last - BLOCKS, last)
