"""`lensmount bench registry`: from an upload to a live answer, long lists, starts, and thousands of promotions."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles

from lensmount.client import Client
from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.package import MANIFEST_FILE, read_package
from lensmount_server.bench import specimens
from lensmount_server.bench.memory import rss_bytes
from lensmount_server.bench.packages import Specimen, Writer, serving, shots, upload
from lensmount_server.bench.served import server
from lensmount_server.bench.setting import Setting, setting_of
from lensmount_server.bench.swap import Load
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Want
from lensmount_server.registry import Registry

BACKBONE = "vit_small_patch16_224"
RANK, PICTURES, TASK, OTHER = 16, 4, "defect", "scene"
STARTED, STARTS, PAGE = 1000, 5, 100
VERSIONS, HOT, FIRST = 4, 8, 1000
FRAMES_PER_SECOND = 25.0
# What the control keeps of each promotion: what would be a tenth of a percent of this process in a thousand of them.
LEAK_BYTES = 16 << 10

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Report(Setting):
    """What one run found.

    `register_to_live_ms` is a client's call, golden check included, over loopback to a server of its own; `start_ms`
    is what `STARTED` live tasks add to an empty start. Growth is of resident memory after the first promotions;
    `control_growth_percent` is the same while each promotion leaks LEAK_BYTES.
    """

    package_bytes: int
    register_to_live_p50_ms: float
    register_to_live_p95_ms: float
    first_answer_p50_ms: float
    registered: int
    page_p50_ms: float
    page_max_ms: float
    start_ms: float
    promotions: int
    promotion_p50_ms: float
    rows: int
    lost: int
    misrouted: int
    growth_percent: float
    control_growth_percent: float


@dataclass
class _Served:
    """What a client measured, in milliseconds: calls that register and set `live`, until an answer came, pages."""

    registered: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)


@dataclass
class _Promotions:
    """How promotions went under load."""

    ms: list[float] = field(default_factory=list)
    growth_percent: float = 0.0


def measure(settings: EngineSettings, uploads: int, registered: int, promotions: int, progress: Progress) -> Report:
    """Run the bench: some minutes, most of it for promotions."""
    with tempfile.TemporaryDirectory(prefix="lensmount-bench-") as scratch:
        return asyncio.run(_measure(settings, uploads, registered, promotions, Path(scratch), progress))


async def _measure(
    settings: EngineSettings, uploads: int, registered: int, promotions: int, scratch: Path, progress: Progress
) -> Report:
    progress("loading the backbone")
    backbone = specimens.backbone_of(BACKBONE)
    writer = Writer(backbone, shots(backbone, PICTURES))
    adapters = [specimens.lora_adapter(backbone, _blocks(backbone), RANK, seed) for seed in range(uploads)]
    packages = [writer.write(scratch / f"u{seed}", adapter, TASK) for seed, adapter in enumerate(adapters)]
    crowd = [f"crowd-{each % 50}" for each in range(registered)]
    await asyncio.to_thread(_fill, writer, scratch / "data", crowd, progress)
    served = await asyncio.to_thread(_served, settings, backbone, packages, scratch, progress)
    # Tails are merged at once: what they take is there before growth is looked at.
    engine = await asyncio.to_thread(open_engine, backbone, replace(settings, merged_mib=256, merge_after=0))
    start_ms = await _starts(engine, writer, scratch, progress)
    load, done = await _promoted(engine, writer, promotions, 0, scratch / "promoted", progress)
    control = await _promoted(engine, writer, promotions, LEAK_BYTES, scratch / "control", progress)
    setting = asdict(setting_of(engine.executor, BACKBONE))
    engine.close()
    return Report(
        **setting,
        package_bytes=packages[0].archive.stat().st_size,
        register_to_live_p50_ms=round(median(served.registered), 1),
        register_to_live_p95_ms=round(quantiles(served.registered, n=20, method="inclusive")[-1], 1),
        first_answer_p50_ms=round(median(served.answered), 1),
        registered=registered,
        page_p50_ms=round(median(served.pages), 2),
        page_max_ms=round(max(served.pages), 2),
        start_ms=round(start_ms, 1),
        promotions=promotions,
        promotion_p50_ms=round(median(done.ms), 2),
        rows=load.asked,
        lost=load.asked - load.answered,
        misrouted=load.misrouted,
        growth_percent=round(done.growth_percent, 3),
        control_growth_percent=round(control[1].growth_percent, 3),
    )


def _served(
    settings: EngineSettings, backbone: Backbone, packages: list[Specimen], scratch: Path, progress: Progress
) -> _Served:
    """What a client sees of a server whose registry is full: pages of its list, then uploads that go live."""
    picture, seen = shots(backbone, 1)[0], _Served()
    with server(backbone, settings, scratch) as running, Client(running.address) as client:
        progress("listing")
        since, listed = time.perf_counter(), 0
        for listed, _ in enumerate(client.adapters(), 1):
            if listed % PAGE == 0:
                seen.pages.append((time.perf_counter() - since) * 1e3)
                since = time.perf_counter()
        for number, package in enumerate(packages):
            progress(f"upload {number + 1} of {len(packages)}")
            start = time.perf_counter()
            done = client.register(package.archive, alias="live")
            seen.registered.append((time.perf_counter() - start) * 1e3)
            (result,) = client.infer(picture, tasks=[TASK])
            seen.answered.append((time.perf_counter() - start) * 1e3)
            if result.adapter.content_hash != done.adapter.content_hash:
                raise ServerError("the answer is another version's", value=result.adapter)
    del seen.registered[0], seen.answered[0]  # the first one warms the server up
    return seen


async def _starts(engine: Engine, writer: Writer, scratch: Path, progress: Progress) -> float:
    """Milliseconds that STARTED live tasks add to a start of everything but the engine, which is the same."""
    full, empty = scratch / "full", scratch / "empty"
    await asyncio.to_thread(_fill, writer, full, [f"task-{each}" for each in range(STARTED)], progress, "live")
    spent: dict[Path, list[float]] = {full: [], empty: []}
    for _ in range(STARTS):
        for directory, each in spent.items():
            start = time.perf_counter()
            async with serving(engine, directory, HOT):
                each.append((time.perf_counter() - start) * 1e3)
    return median(spent[full]) - median(spent[empty])


async def _promoted(
    engine: Engine, writer: Writer, promotions: int, leak_bytes: int, scratch: Path, progress: Progress
) -> tuple[Load, _Promotions]:
    """Promote versions in turn while frames are answered; `leak_bytes` of each promotion are kept, by intent."""
    backbone, done, leaked = engine.backbone, _Promotions(), []
    adapters = [specimens.lora_adapter(backbone, _blocks(backbone)[-4:], RANK, seed) for seed in range(VERSIONS)]
    versions = [writer.write(scratch / f"v{seed}", adapter, TASK) for seed, adapter in enumerate(adapters)]
    expected = {each.content_hash: each.expected.softmax(-1) for each in versions}
    async with serving(engine, scratch / "data", HOT) as catalog:
        for version in versions:
            await catalog.register(upload(version.archive))
        await catalog.promote(TASK, "live", 1)
        load = Load(catalog, shots(backbone, PICTURES), expected, 1 / FRAMES_PER_SECOND, [versions[0].content_hash])
        load.wants = (Want(TASK),)
        frames = asyncio.create_task(load.window(float("inf"), "promoting"))
        before = 0
        for number in range(1, promotions + 1):
            version = versions[number % VERSIONS]
            load.live.append(version.content_hash)
            start = time.perf_counter()
            await catalog.promote(TASK, "live", number % VERSIONS + 1)
            done.ms.append((time.perf_counter() - start) * 1e3)
            load.promoted = len(load.live)
            leaked.append(bytes(leak_bytes))
            if number == min(FIRST, promotions // 2):
                before = _settled_bytes()
            if number % 100 == 0:
                progress(f"promotion {number:,} of {promotions:,}{' (control)' if leak_bytes else ''}")
        load.stopped = True
        await frames
        done.growth_percent = 100 * (_settled_bytes() / before - 1)
    return load, done


def _fill(writer: Writer, directory: Path, tasks: Sequence[str], progress: Progress, alias: str = "") -> None:
    """Register a head for each of the tasks, past the gate: the same but for its task and card."""
    registry, folder = Registry(directory), directory / "template"
    writer.write(folder, specimens.head_adapter(writer.backbone, 1), OTHER)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    for number, task in enumerate(tasks):
        package = directory / "package"
        shutil.copytree(folder, package)
        (package / MANIFEST_FILE).write_text(json.dumps({**manifest, "task": task}))
        (package / "README.md").write_text(f"# {number}\n")
        record, _ = registry.add(read_package(package), package)
        if alias:
            registry.set_alias(task, alias, record.id.version)
        if number % 100 == 0:
            progress(f"adapter {number + 1:,} of {len(tasks):,}")
    registry.close()


def _settled_bytes() -> int:
    """What this process takes when the allocator has given back what it can (malloc_trim(3))."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return rss_bytes()


def _blocks(backbone: Backbone) -> list[int]:
    """All transformer blocks: between the first segment and the norm."""
    return list(range(1, len(backbone.segments) - 1))
