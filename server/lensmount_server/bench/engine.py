"""`lensmount bench engine`: what K tasks cost beside one, and beside what people run today."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.timing import Rounds, Spread, Timed, in_turns
from lensmount_server.bench import rivals, specimens
from lensmount_server.bench.bare import Bare, CompiledBare, EagerBare
from lensmount_server.bench.setting import Setting, setting_of
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.opening import open_engine
from lensmount_server.engine.plan import plan
from lensmount_server.engine.runtime import Executor
from lensmount_server.engine.settings import EngineSettings

FRAMES, TASKS, HEADS, IDLE, RANK, BLOCKS = 8, 4, 8, 64, 16, 4
TRANSFORMER = "vit_small_patch16_224"
CONVOLUTIONAL = ("resnet50", "efficientnet_b0")


@dataclass(frozen=True)
class Case:
    """One row of the table: `ratio` is the median of round-by-round ratios, with its quartiles.

    `ideal` is what the arithmetic of shared segments gives, by operations; `goal` what was set out to be reached.
    """

    name: str
    backbone: str
    tasks: int
    edited_segments: int
    frames: int
    ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    to: str
    ideal: float | None = None
    goal: float | None = None


@dataclass(frozen=True)
class Report(Setting):
    """Everything that one run measured."""

    rounds: int
    cases: tuple[Case, ...]


@dataclass(frozen=True, eq=False)
class Bench:
    """A backbone with its executor and pictures, ready to be measured."""

    backbone: Backbone
    executor: Executor
    pictures: Tensor

    def of(self, adapters: Sequence[Adapter], frames: int) -> Timed:
        """Every adapter on every one of the first `frames` pictures."""
        return self.of_pairs([(frame, adapter) for frame in range(frames) for adapter in adapters], frames)

    def of_pairs(self, pairs: Sequence[tuple[int, Adapter]], frames: int) -> Timed:
        """These (frame, adapter) pairs in one pass."""
        (work,) = plan(pairs)
        return self.whole(partial(self.executor.run, work, self.pictures[:frames]))

    def whole(self, run: Timed) -> Timed:
        """The run to its end: a GPU is waited for."""
        return _finished(run) if self.backbone.device.type == "cuda" else run


Progress = Callable[[str, Rounds], None]


def measure(settings: EngineSettings, rounds: int, progress: Progress) -> Report:
    """Run everything; takes some minutes. `progress` is told after every round."""
    bench = _bench(TRANSFORMER, settings)
    cases = [*_transformer(bench, rounds, progress)]
    setting = asdict(setting_of(bench.executor, TRANSFORMER))
    bench.executor.close()
    for name in CONVOLUTIONAL:
        bench = _bench(name, settings)
        cases += _convolutional(bench, rounds, progress)
        bench.executor.close()
    return Report(**setting, rounds=rounds, cases=tuple(cases))


def _bench(name: str, settings: EngineSettings) -> Bench:
    backbone = specimens.backbone_of(name)
    executor = open_engine(backbone, replace(settings, merge_after=0)).executor
    return Bench(backbone, executor, specimens.pictures(backbone, FRAMES))


def _bare(bench: Bench) -> Bare:
    if isinstance(bench.executor, CpuExecutor):
        return CompiledBare(bench.executor, bench.pictures)
    return EagerBare(bench.backbone, bench.pictures, DTYPES[bench.executor.precision])


def _finished(run: Timed) -> Timed:
    def finished() -> None:
        run()
        torch.cuda.synchronize()

    return finished


def _transformer(bench: Bench, rounds: int, progress: Progress) -> Iterator[Case]:
    backbone, blocks = bench.backbone, len(bench.backbone.segments) - 2
    tail = _mounted(bench, [_lora(backbone, range(blocks - BLOCKS + 1, blocks + 1), seed) for seed in range(TASKS)])
    deep = _mounted(bench, [_lora(backbone, range(1, blocks + 1), 10 + seed) for seed in range(TASKS)])
    heads = _mounted(bench, [specimens.head_adapter(backbone, 20 + seed) for seed in range(HEADS)])
    _mounted(bench, [specimens.head_adapter(backbone, 100 + seed) for seed in range(IDLE)])
    bench.executor.settle()
    scattered = [(frame, deep[frame % TASKS]) for frame in range(FRAMES)]
    peft = rivals.Peft(backbone, tail, DTYPES[bench.executor.precision])
    pictures = bench.pictures.to(backbone.device)
    x = backbone.preprocessing.normalize(pictures).to(DTYPES[bench.executor.precision])
    bare = _bare(bench)
    sides: dict[str, Timed] = {
        "one": bench.of(tail[:1], FRAMES),
        "tail": bench.of(tail, FRAMES),
        "one frame": bench.of(tail[:1], 1),
        "tail_1_frame": bench.of(tail, 1),
        "head": bench.of(heads[:1], FRAMES),
        "heads": bench.of(heads, FRAMES),
        "all_blocks": bench.of_pairs(scattered, FRAMES),
        "bare": bench.whole(partial(bare.base, heads[0])),
        "separate_merged": bench.whole(partial(bare.merged, tail)),
        "peft_mixed": bench.whole(partial(peft.mixed, x)),
        "peft_set_adapter": bench.whole(partial(peft.one_by_one, x)),
        **_timm(bench, heads[0]),
    }
    done = _run(f"{backbone.name}", sides, rounds, progress)
    bare.close()
    shared = _ideal(bench, tail[0].fork, TASKS)
    row = partial(_case, bench, done)
    yield row("tail", "one", TASKS, BLOCKS, FRAMES, ideal=shared, goal=2.05)
    yield row("tail_1_frame", "one frame", TASKS, BLOCKS, 1, ideal=shared, goal=1.6)
    yield row("heads", "head", HEADS, 0, FRAMES, ideal=1.0, goal=1.05)
    yield row("all_blocks", "bare", TASKS, blocks, FRAMES, ideal=1.0, goal=1.05)
    yield _case(bench, done, "head", "bare", 1, 0, FRAMES, ideal=1.0, goal=1.01, name="idle")
    yield row("separate_merged", "one", TASKS, BLOCKS, FRAMES, ideal=float(TASKS))
    yield row("peft_mixed", "one", TASKS, BLOCKS, FRAMES)
    yield row("peft_set_adapter", "one", TASKS, BLOCKS, FRAMES)
    yield from _vs_timm(bench, done, {1: "one frame", FRAMES: "one"}, goal=0.85)


def _convolutional(bench: Bench, rounds: int, progress: Progress) -> Iterator[Case]:
    stage = specimens.last_stage(bench.backbone)
    tasks = _mounted(bench, [_lora(bench.backbone, stage, seed) for seed in range(TASKS)])
    bench.executor.settle()
    sides = {
        "one": bench.of(tasks[:1], FRAMES),
        "last_stage": bench.of(tasks, FRAMES),
        "one frame": bench.of(tasks[:1], 1),
        **_timm(bench, tasks[0]),
    }
    done = _run(bench.backbone.name, sides, rounds, progress)
    ideal = _ideal(bench, tasks[0].fork, TASKS)
    yield _case(bench, done, "last_stage", "one", TASKS, len(stage), FRAMES, ideal=ideal, goal=1.1 * ideal)
    yield from _vs_timm(bench, done, {1: "one frame", FRAMES: "one"}, goal=0.45)


def _lora(backbone: Backbone, segments: Sequence[int], seed: int) -> Adapter:
    return specimens.lora_adapter(backbone, segments, RANK, seed)


def _mounted(bench: Bench, adapters: list[Adapter]) -> list[Adapter]:
    for adapter in adapters:
        bench.executor.mount(adapter)
    return adapters


def _timm(bench: Bench, adapter: Adapter) -> dict[str, Timed]:
    """Timm's own eager model in its best form, for a single frame and for all."""
    sides: dict[str, Timed] = {}
    for frames in (1, FRAMES):
        pictures = bench.pictures[:frames].to(bench.backbone.device)
        forms = rivals.timm_forms(bench.backbone, adapter.head, pictures)
        name, run = rivals.best_of({name: bench.whole(run) for name, run in forms.items()})
        sides[f"timm {name}, {frames}"] = run
    return sides


def _vs_timm(bench: Bench, done: Rounds, ours: dict[int, str], goal: float) -> Iterator[Case]:
    for frames, side in ours.items():
        rival = next(name for name in done.ms if name.startswith("timm ") and name.endswith(f", {frames}"))
        yield _case(bench, done, side, rival, 1, 0, frames, goal=goal, name="vs_timm_eager")


def _run(what: str, sides: dict[str, Timed], rounds: int, progress: Progress) -> Rounds:
    done = Rounds({})
    for done in in_turns(sides, rounds):
        progress(what, done)
    return done


def _case(  # noqa: PLR0913 - a row's columns
    bench: Bench,
    done: Rounds,
    side: str,
    to: str,
    tasks: int,
    edited: int,
    frames: int,
    *,
    ideal: float | None = None,
    goal: float | None = None,
    name: str = "",
) -> Case:
    ratio: Spread = done.ratio(side, to)
    numbers = (done.of(side).median, ratio.median, ratio.low, ratio.high)
    ms, middle, low, high = (round(number, 3) for number in numbers)
    backbone = bench.backbone.name
    return Case(name or side, backbone, tasks, edited, frames, ms, middle, low, high, to, ideal, goal)


def _ideal(bench: Bench, fork: int, tasks: int) -> float:
    """Operations for `tasks` adapters that fork here, through those for one."""
    trunk, tail = 0, 0
    with torch.inference_mode():
        x = bench.backbone.preprocessing.normalize(bench.pictures[:1].to(bench.backbone.device))
        for index, segment in enumerate(bench.backbone.segments):
            counter = FlopCounterMode(display=False)
            with counter:
                x = segment(x)
            if index < fork:
                trunk += counter.get_total_flops()
            else:
                tail += counter.get_total_flops()
    return round((trunk + tasks * tail) / (trunk + tail), 3)
