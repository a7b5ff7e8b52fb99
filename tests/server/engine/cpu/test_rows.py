"""Every fast form of every adapter equals the adapter's own model run alone, and faults that mix rows up are caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines import FRAMES, SideBySide, Zoo, distance, lora_form, merged_form, serve
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_server.engine.cpu import lanes
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.tails import _Tail
from lensmount_server.engine.cpu.units import NO_TENSORS, Options, Unit
from lensmount_server.engine.ranges import SegmentRange
from lensmount_server.engine.runtime import Executor

# The largest difference of a logit, relative to the largest logit of its row.
TOLERANCE = 2e-5
TOLERANCE_BF16 = 0.12
# How much of it comes from the sizes of the batches that a row is in.
NEIGHBOURS = 1e-5
NEIGHBOURS_BF16 = 0.1
FAR = 1e-2
MEMBERS = 12
OPTIONS = Options((1, 2), wide=True)
EVERYTHING = [(frame, number) for frame in range(FRAMES) for number in range(MEMBERS)]
Wanted = Sequence[tuple[int, int]]

wanted_pairs = st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(0, MEMBERS - 1)), min_size=1, max_size=16)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
fewer = settings(few, max_examples=5)


def distances(executor: Executor, zoo: Zoo, wanted: Wanted) -> list[float]:
    """How far each wanted row is from the member's own model run alone."""
    answers = serve(executor, ((frame, zoo.members[i].adapter) for frame, i in wanted), zoo.rows)
    keys = [(frame, zoo.members[i].adapter.content_hash) for frame, i in wanted]
    assert answers.keys() == set(keys)
    return [distance(answers[key], zoo.expected[key]) for key in keys]


@few
@given(wanted=wanted_pairs)
def test_a_row_of_any_batch_equals_its_adapter_run_alone(fast: Any, wanted: Wanted) -> None:
    for executor in fast.forms:
        assert max(distances(executor, fast.zoo, wanted)) < TOLERANCE


@fewer
@given(wanted=wanted_pairs)
def test_in_bf16_it_is_nearer_to_its_own_than_to_any_other(fast_bf16: Any, wanted: Wanted) -> None:
    for executor in fast_bf16.forms:
        assert max(distances(executor, fast_bf16.zoo, wanted)) < TOLERANCE_BF16


def test_any_two_adapters_and_any_two_frames_differ_by_more_than_twice_the_loosest_tolerance(zoo: Zoo) -> None:
    """So a row that is within the tolerance of its own can not be another's."""
    for (frame, own), logits in zoo.expected.items():
        others = [zoo.expected[frame, member.adapter.content_hash] for member in zoo.members]
        others = [other for other in others if other is not logits]
        assert min(distance(logits, other) for other in others) > 2 * TOLERANCE_BF16
        frames = [zoo.expected[other, own] for other in range(FRAMES) if other != frame]
        assert min(distance(logits, other) for other in frames) > 2 * TOLERANCE


def between_alone_and_together(executor: Executor, zoo: Zoo) -> float:
    """The largest difference that neighbours make to a row."""
    adapters = {member.adapter.content_hash: member.adapter for member in zoo.members}
    together = serve(executor, ((frame, zoo.members[i].adapter) for frame, i in EVERYTHING), zoo.rows)
    return max(
        distance(serve(executor, [(frame, adapters[own])], zoo.rows)[frame, own], logits)
        for (frame, own), logits in together.items()
        if frame in (0, FRAMES - 1)
    )


def test_neighbours_do_not_matter(fast: Any) -> None:
    for executor in fast.forms:
        assert between_alone_and_together(executor, fast.zoo) < NEIGHBOURS


def test_in_bf16_neighbours_matter_as_rounding_does(fast_bf16: Any) -> None:
    for executor in fast_bf16.forms:
        assert between_alone_and_together(executor, fast_bf16.zoo) < NEIGHBOURS_BF16


def test_the_backbone_stays_as_it_was(fast: Any) -> None:
    for executor in fast.forms:
        assert max(distances(executor, fast.zoo, EVERYTHING)) < TOLERANCE
        for model in (fast.zoo.backbone.model, executor._lowered.model, executor._trial._computing.model):
            assert not [name for name, module in model.named_modules() if module._forward_hooks]
    assert fingerprint(fast.zoo.backbone.model) == fast.zoo.backbone.fingerprint


@contextmanager
def merged(zoo: Zoo, compiler: SideBySide | None = None) -> Iterator[CpuExecutor]:
    """An executor with merged tails, for faults."""
    compiler = compiler or SideBySide(EagerCompiler(zoo.backbone, "fp32"))
    executor = merged_form(zoo.backbone, compiler, OPTIONS, zoo.members)
    try:
        yield executor
    finally:
        executor.close()


def put(executor: CpuExecutor, zoo: Zoo, number: int, unit: Unit | None) -> None:
    assert unit is not None
    executor._tails._tails[zoo.members[number].adapter.content_hash] = _Tail(unit, 0.0)


def wrong_members(executor: CpuExecutor, zoo: Zoo) -> set[int]:
    """The members whose rows are wrong."""
    return {i for (_, i), off in zip(EVERYTHING, distances(executor, zoo, EVERYTHING), strict=True) if off > FAR}


on_one_backbone = pytest.mark.parametrize("zoo", ["test_resnet"], indirect=True)


@on_one_backbone
def test_two_tails_exchanged_are_caught(zoo: Zoo) -> None:
    with merged(zoo) as executor:
        assert not wrong_members(executor, zoo)
        first, second = (executor._tails.get(zoo.members[i].adapter) for i in (0, 1))
        put(executor, zoo, 0, second)
        put(executor, zoo, 1, first)
        assert wrong_members(executor, zoo) == {0, 1}


@on_one_backbone
def test_a_tail_that_is_the_bases_is_caught(zoo: Zoo) -> None:
    with merged(zoo) as executor:
        adapter = zoo.members[0].adapter
        range_ = SegmentRange(adapter.fork, len(zoo.backbone.segments), zoo.backbone.preprocessing)
        put(executor, zoo, 0, executor.compiler.compile(range_, OPTIONS))
        assert wrong_members(executor, zoo) == {0}


@on_one_backbone
def test_a_stale_tail_is_caught(zoo: Zoo) -> None:
    """Merged from another adapter's tensors, under the right hash."""
    with merged(zoo) as executor:
        stale = replace(zoo.members[1].adapter, content_hash=zoo.members[0].adapter.content_hash)
        put(executor, zoo, 0, executor._merge(stale))
        assert wrong_members(executor, zoo) == {0}


def exchanged(cut: list[Any]) -> list[Any]:
    """Chunks of the same size give their outputs to each other."""
    outs = [chunk.out for chunk in cut]
    return [
        replace(chunk, out=out if out.shape == chunk.out.shape else chunk.out)
        for chunk, out in zip(cut, [*outs[1:], outs[0]], strict=True)
    ]


def shifted(cut: list[Any]) -> list[Any]:
    """Rows within a chunk come one place too late."""
    return [replace(chunk, x=chunk.x.roll(1, dims=0).contiguous()) for chunk in cut]


@on_one_backbone
@pytest.mark.parametrize("fault", [exchanged, shifted])
def test_lanes_that_mix_up_chunks_are_caught(
    zoo: Zoo, fault: Callable[[list[Any]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = lanes._cut
    with merged(zoo) as executor:
        monkeypatch.setattr(lanes, "_cut", lambda *arguments: fault(cut(*arguments)))
        assert wrong_members(executor, zoo)


@on_one_backbone
def test_lanes_that_give_back_outputs_in_another_order_are_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    with merged(zoo) as executor:
        run = executor._lanes.run
        monkeypatch.setattr(executor._lanes, "run", lambda works: run(works)[::-1])
        assert wrong_members(executor, zoo) & {0, 1}


class Late(SideBySide):
    """Every part of the trunk but the first starts one segment late."""

    def compile(self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = NO_TENSORS) -> Unit:
        late = range_.start > 0 and len(range_) > 1 and not tensors
        return super().compile(replace(range_, start=range_.start + 1) if late else range_, options, tensors)


@pytest.mark.parametrize("zoo", ["test_vit"], indirect=True)  # where all borders have one shape: no crash tells
def test_a_part_of_the_trunk_that_starts_late_is_caught(zoo: Zoo) -> None:
    executor = lora_form(zoo.backbone, Late(EagerCompiler(zoo.backbone, "fp32")), OPTIONS)
    behind = {i for i, member in enumerate(zoo.members) if member.adapter.fork > 2}
    assert wrong_members(executor, zoo) == behind
    executor.close()
