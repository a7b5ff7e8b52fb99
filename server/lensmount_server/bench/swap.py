"""`lensmount bench swap`: versions are registered and promoted while frames are answered."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import median, quantiles

import torch

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_server.bench import specimens
from lensmount_server.bench.memory import rss_bytes
from lensmount_server.bench.packages import Specimen, Writer, serving, shots, upload
from lensmount_server.bench.setting import Setting, setting_of
from lensmount_server.catalog import Catalog
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Answer, Frame, Still, Want
from lensmount_server.scheduling import Terms

BACKBONE = "vit_small_patch16_224"
RANK, BLOCKS, PICTURES, SOURCES = 16, 4, 4, 2
# Versions until everything that keeps a number of them (hot set, merged tails) has its number.
WARM_UP, HOT, MERGED_MIB = 6, 6, 256
# How busy the engine is kept by frames alone, so that latency means something.
LOAD = 0.5
TASK, OTHER = "defect", "scene"
STEADY, SWAP, MERGING = "steady", "swap", "merging"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report(Setting):
    """What happened; `p99_ratio` is the 99th percentile of latency in windows with a swap through those without.

    `p99_merging_ratio` is the same for windows in which a version's tail is merged, which else happens once, after
    some hundred rows.
    """

    swaps: int
    rows: int
    lost: int
    misrouted: int
    frames_per_second: float
    p50_ms: float
    p50_swap_ms: float
    p99_ms: float
    p99_swap_ms: float
    p99_ratio: float
    p99_merging_ms: float
    p99_merging_ratio: float
    register_ms: float
    switch_ms: float
    rss_growth_percent: float


@dataclass
class Load:
    """Frames of some sources at a steady rate, each checked against what its version must say.

    `live` are the versions in the order of their promotions, of which `promoted` are done: a frame may be
    answered by the last one that was done when it was asked for, or by a later one.
    """

    catalog: Catalog
    pictures: Sequence[Pixels]
    expected: dict[str, torch.Tensor]
    interval_s: float
    live: list[str]
    promoted: int = 1
    wants: tuple[Want, ...] = (Want(TASK), Want(OTHER))
    stopped: bool = False
    latencies: dict[str, list[float]] = field(default_factory=dict)
    asked: int = 0
    answered: int = 0
    misrouted: int = 0

    async def window(self, seconds: float, kind: str) -> None:
        """Send frames for so long, or until `stopped`, and wait for their answers; `kind` is what happens meanwhile."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as sent:
            for number in count():
                due = start + number * self.interval_s
                if self.stopped or (number and due >= start + seconds):
                    break
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                sent.create_task(self.one(number, due, kind))

    async def one(self, number: int, due: float, kind: str) -> None:
        """Ask for one frame and look at its answers; its latency counts from when it was due."""
        shot, since = number % len(self.pictures), self.promoted - 1
        wants = self.wants
        self.asked += len(wants)
        frame = Frame(Still(self.pictures[shot]), index=number)
        answers = await self.catalog.answer(frame, wants, Terms(f"source-{number % SOURCES}"))
        self.latencies.setdefault(kind, []).append((time.perf_counter() - due) * 1e3)
        self.answered += len(answers)
        self.misrouted += sum(
            not self._right(answer, want, shot, since) for answer, want in zip(answers, wants, strict=True)
        )

    def _right(self, answer: Answer, want: Want, shot: int, since: int) -> bool:
        """The hash was live meanwhile, and the scores are those of that version and of no other."""
        answered = answer.adapter.content_hash
        if answer.adapter.task != want.task or (want.task == TASK and answered not in self.live[since:]):
            return False
        scores = torch.tensor(answer.scores)
        nearest = min(self.expected, key=lambda each: float((self.expected[each][shot] - scores).abs().max()))
        return nearest == answered


def measure(settings: EngineSettings, swaps: int, window_s: float, progress: Progress) -> Report:
    """Run the bench; takes three windows a swap and some seconds more."""
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as scratch:
        return asyncio.run(_measure(settings, swaps, window_s, Path(scratch), progress))


async def _measure(settings: EngineSettings, swaps: int, window_s: float, scratch: Path, progress: Progress) -> Report:
    progress("loading the backbone and writing packages")
    backbone = specimens.backbone_of(BACKBONE)
    engine = await asyncio.to_thread(open_engine, backbone, replace(settings, merged_mib=MERGED_MIB))
    pictures = shots(backbone, PICTURES)
    versions, other = _write(Writer(backbone, pictures), scratch, swaps + WARM_UP + 1, backbone)
    expected = {each.content_hash: each.expected.softmax(-1) for each in (*versions, other)}
    async with serving(engine, scratch / "data", hot=HOT) as catalog:
        await catalog.register(upload(other.archive), "live")
        await catalog.register(upload(versions[0].archive), "live")
        load = Load(catalog, pictures, expected, 1.0, [versions[0].content_hash])
        load.interval_s = await _interval_s(load)
        register_ms, switch_ms, before = [], [], 0
        for number, version in enumerate(versions[1:], start=1 - WARM_UP):
            if number == 1:
                before = rss_bytes()
                load.latencies.clear()
            progress(f"swap {max(number, 0)} of {swaps}")
            await load.window(window_s, STEADY)
            spent, switch = await _swap_under_load(load, version, window_s)
            await _merge_under_load(load, engine, version, window_s)
            register_ms.append(spent)
            switch_ms.append(switch)
        growth = 100 * (rss_bytes() / before - 1)
    setting = asdict(setting_of(engine.executor, BACKBONE))
    engine.close()
    p99 = {kind: _p99(latencies) for kind, latencies in load.latencies.items()}
    return Report(
        **setting,
        swaps=swaps,
        rows=load.asked,
        lost=load.asked - load.answered,
        misrouted=load.misrouted,
        frames_per_second=round(1 / load.interval_s, 1),
        p50_ms=round(median(load.latencies[STEADY]), 1),
        p50_swap_ms=round(median(load.latencies[SWAP]), 1),
        p99_ms=round(p99[STEADY], 1),
        p99_swap_ms=round(p99[SWAP], 1),
        p99_ratio=round(p99[SWAP] / p99[STEADY], 3),
        p99_merging_ms=round(p99[MERGING], 1),
        p99_merging_ratio=round(p99[MERGING] / p99[STEADY], 3),
        register_ms=round(median(register_ms), 1),
        switch_ms=round(median(switch_ms), 2),
        rss_growth_percent=round(growth, 2),
    )


async def _swap_under_load(load: Load, version: Specimen, window_s: float) -> tuple[float, float]:
    """Register and promote while a window runs; milliseconds for each."""
    window = asyncio.create_task(load.window(window_s, SWAP))
    start = time.perf_counter()
    registered = await load.catalog.register(upload(version.archive))
    spent = (time.perf_counter() - start) * 1e3
    load.live.append(version.content_hash)
    promotion = await load.catalog.promote(TASK, "live", registered.record.id.version)
    load.promoted = len(load.live)
    await window
    return spent, promotion.switch_ms


async def _merge_under_load(load: Load, engine: Engine, version: Specimen, window_s: float) -> None:
    """Merge the version's tail while a window runs."""
    window = asyncio.create_task(load.window(window_s, MERGING))
    if isinstance(engine.executor, CpuExecutor):
        await asyncio.to_thread(engine.executor.merge, version.content_hash)
    await window


async def _interval_s(load: Load) -> float:
    """Seconds between frames that keep the engine as busy as LOAD says."""
    spent = []
    for number in range(20):
        start = time.perf_counter()
        await load.one(number, start, STEADY)
        spent.append(time.perf_counter() - start)
    return median(spent) / LOAD


def _write(writer: Writer, scratch: Path, count: int, backbone: Backbone) -> tuple[list[Specimen], Specimen]:
    blocks = len(backbone.segments) - 2
    tail = range(blocks - BLOCKS + 1, blocks + 1)
    adapters = [specimens.lora_adapter(backbone, tail, RANK, seed) for seed in range(count)]
    versions = [writer.write(scratch / f"v{number}", adapter, TASK) for number, adapter in enumerate(adapters)]
    return versions, writer.write(scratch / "other", specimens.head_adapter(backbone, 1), OTHER)


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1]
