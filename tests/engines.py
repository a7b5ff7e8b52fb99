"""Adapters with the model that each must equal, and a way to run plans of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factories import (
    fitted,
    head_package,
    lora_package,
    lora_targets,
    pictures,
    queries_and_values_only,
    replaced_package,
    stacked,
)
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import HeadSpec, run_head
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.units import NO_TENSORS, Compiler, LoraUnit, Options, Unit
from lensmount_server.engine.plan import plan
from lensmount_server.engine.ranges import SegmentRange
from lensmount_server.engine.runtime import Executor

Oracle = Callable[[Tensor], Tensor]
Answers = dict[tuple[int, str], Tensor]


@dataclass(frozen=True, eq=False)
class Member:
    """An adapter, and its own model: logits of normalised rows, run alone."""

    adapter: Adapter
    oracle: Oracle


def lora_member(folder: Path, backbone: Backbone, **options: Any) -> Member:
    """An adapter with LoRA edits made by PEFT, beside PEFT's merged model."""
    return Member(*_pair(lora_package(folder, backbone, **options), folder / "package", backbone))


# What PEFT's LoRA can be beyond A and B; "own" biases are lora_B's, which only modules with a bias can have.
BEYOND_LORA: Mapping[str, Mapping[str, Any]] = {
    "dora": {"use_dora": True},
    "dora, biases": {"use_dora": True, "bias": "lora_only", "use_rslora": True},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "own biases": {"lora_bias": True},
    "all biases, own": {"lora_bias": True, "bias": "all"},
    "q and v": {"change": queries_and_values_only},
}


def beyond_lora(folder: Path, backbone: Backbone) -> dict[str, Member]:
    """A member of every kind of LoRA that the backbone can have, and a plain one: different ranks, one segment."""
    modules: list[Any] = [backbone.model.get_submodule(name) for name in lora_targets(backbone, (-2,))]
    biased = all(module.bias is not None for module in modules)
    kinds = {kind: options for kind, options in {"plain": {}, **BEYOND_LORA}.items() if biased or "own" not in kind}
    return {
        kind: lora_member(folder / str(i), backbone, segments=(-2,), rank=2 + 2 * (i % 3), seed=i, **options)
        for i, (kind, options) in enumerate(kinds.items())
    }


def replaced_member(folder: Path, backbone: Backbone, **options: Any) -> Member:
    """An adapter with replaced segments, beside the model that has those tensors."""
    return Member(*_pair(replaced_package(folder, backbone, **options), folder, backbone))


def head_member(folder: Path, backbone: Backbone, head: HeadSpec, **options: Any) -> Member:
    """An adapter that only adds a head, beside timm's features and that head."""
    module = head_package(folder, backbone, head=head, **options)
    model: Any = backbone.model

    def oracle(x: Tensor) -> Tensor:
        features = model.forward_features(x)
        return run_head(module, backbone, features, model.forward_head(features, pre_logits=True))

    return Member(*_pair(oracle, folder, backbone))


def _pair(oracle: Oracle, folder: Path, backbone: Backbone) -> tuple[Adapter, Oracle]:
    return fitted(folder, backbone), oracle


def serve(executor: Executor, wanted: Iterable[tuple[int, Adapter]], rows: Tensor) -> Answers:
    """Logits (labels,) of every wanted (frame, content hash); `rows` are all frames, uint8."""
    answers: Answers = {}
    for work in plan(wanted):
        for group, logits in zip(work.groups, executor.run(work, rows[list(work.frames)]), strict=True):
            for position, row in zip(group.frames, logits, strict=True):
                answers[work.frames[position], group.adapter.content_hash] = row
    return answers


def alone(backbone: Backbone, member: Member, row: Tensor) -> Tensor:
    """What the member's own model says of one uint8 row."""
    with torch.inference_mode():
        return member.oracle(backbone.preprocessing.normalize(row[None]))[0]


def distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference on the scale of the expected logits; infinite for other shapes."""
    if got.shape != expected.shape:
        return float("inf")
    return float((got - expected).abs().max() / expected.abs().max())


def arithmetic(wanted: Sequence[tuple[int, Adapter]], segments: int) -> list[int]:
    """Rows for each segment: one for a frame that a later fork needs, one for each adapter that forked."""
    pairs = {(frame, adapter.content_hash): adapter for frame, adapter in wanted}
    return [
        len({frame for (frame, _), adapter in pairs.items() if adapter.fork > segment})
        + sum(adapter.fork <= segment for adapter in pairs.values())
        for segment in range(segments)
    ]


class SideBySide:
    """A compiler as it is, with other lanes; what it compiled of the backbone alone is kept for the next executor."""

    def __init__(self, compiler: Compiler, lanes: int = 2) -> None:
        self.compiler = compiler
        self.name = compiler.name
        self.precision = compiler.precision
        self.lanes = lanes
        self.probes = compiler.probes
        self._kept: dict[tuple[SegmentRange, Options], Unit] = {}

    def compile(self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = NO_TENSORS) -> Unit:
        """What the compiler makes."""
        if tensors:
            return self.compiler.compile(range_, options, tensors)
        if (range_, options) not in self._kept:
            self._kept[range_, options] = self.compiler.compile(range_, options)
        return self._kept[range_, options]

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> LoraUnit | None:
        """What the compiler makes."""
        return self.compiler.compile_lora(range_, options, ranks)


def lora_form(backbone: Backbone, compiler: Compiler, options: Options) -> CpuExecutor:
    """An executor that compiles nothing of an adapter."""
    return CpuExecutor(backbone, compiler, options, budget_bytes=0)


def compiled_lora_form(
    backbone: Backbone, compiler: Compiler, options: Options, members: Iterable[Member]
) -> CpuExecutor:
    """An executor with all members' LoRA forms, where the compiler has such, and no merged tail."""
    executor = lora_form(backbone, compiler, options)
    for member in members:
        executor.mount(member.adapter)
    return executor


def merged_form(backbone: Backbone, compiler: Compiler, options: Options, members: Iterable[Member]) -> CpuExecutor:
    """An executor with the merged tails of all members."""
    executor = CpuExecutor(backbone, compiler, options, budget_bytes=1 << 40)
    edited = [member.adapter for member in members if member.adapter.fork < len(backbone.segments)]
    for adapter in edited:
        executor.mount(adapter)
    executor.settle()
    assert all(executor._tails.get(adapter) for adapter in edited)
    return executor


FRAMES = 6


@dataclass(frozen=True, eq=False)
class Zoo:
    """Members of all kinds on one backbone, frames for them, and what each member's own model says of each frame."""

    backbone: Backbone
    members: tuple[Member, ...]
    rows: Tensor
    expected: Answers


def make_zoo(folder: Path, backbone: Backbone) -> Zoo:
    """Forks from first to last, ranks 1 to 16, LoRA, replaced segments, both, and every kind of head."""
    members = (
        lora_member(folder / "0", backbone, segments=(-2,), rank=4, seed=0),
        lora_member(folder / "1", backbone, segments=(-2,), rank=4, seed=1),
        lora_member(folder / "2", backbone, segments=(-2, -3), rank=1, seed=2, labels=2),
        lora_member(folder / "3", backbone, segments=(0, 2), rank=8, seed=3, use_rslora=True),
        lora_member(folder / "4", backbone, segments=(-2,), replaced=(1,), rank=2, seed=4),
        lora_member(folder / "5", backbone, segments=(1,), replaced=(-1,), rank=16, seed=5),
        replaced_member(folder / "6", backbone, segments=(-1, -2), seed=6),
        replaced_member(folder / "7", backbone, segments=(0,), seed=7, labels=5),
        head_member(folder / "8", backbone, HeadSpec(), seed=8),
        head_member(folder / "9", backbone, HeadSpec(kind="mlp", hidden=9), seed=9),
        head_member(folder / "10", backbone, HeadSpec(kind="attention", heads=2), seed=10, labels=4),
        head_member(folder / "11", backbone, HeadSpec(kind="cosine"), seed=11),
    )
    rows = stacked(backbone, pictures(FRAMES))
    expected = {
        (frame, member.adapter.content_hash): alone(backbone, member, rows[frame])
        for frame in range(FRAMES)
        for member in members
    }
    return Zoo(backbone, members, rows, expected)
