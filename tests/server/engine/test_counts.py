"""Shared segments run once for each frame: counted at the modules themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engines import FRAMES, Zoo, arithmetic, lora_member, make_zoo, serve
from factories import pictures, random_backbone, stacked
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.reference import ReferenceExecutor


@contextmanager
def counted(backbone: Backbone) -> Iterator[Counter[str]]:
    """Counts the rows that each segment's own module receives, whatever the executor says."""
    rows: Counter[str] = Counter()
    names = [segment.name for segment in backbone.segments]
    modules = {name: module for name, module in backbone.model.named_modules() if name in names}

    def hook(name: str) -> Any:
        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows[name] += inputs[0].shape[0]

        return count

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in modules.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
def test_a_frame_wanted_by_many_tasks_runs_the_shared_segments_once(tasks: int, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    members = [lora_member(tmp_path / str(i), backbone, segments=(-2,), seed=i) for i in range(tasks)]
    engine = ReferenceExecutor(backbone)
    frames = 4
    wanted = [(frame, member.adapter) for frame in range(frames) for member in members]
    with counted(backbone) as rows:
        serve(engine, wanted, stacked(backbone, pictures(frames)))
    assert len(backbone.segments) == 8
    assert engine.segment_rows == [frames] * 6 + [frames * tasks] * 2
    assert rows == {**{f"blocks.{i}": frames for i in range(5)}, "blocks.5": frames * tasks, "norm": frames * tasks}


def test_tasks_that_only_add_a_head_cost_no_row(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path, random_backbone("test_vit"))
    heads = [member.adapter for member in zoo.members if member.adapter.fork == len(zoo.backbone.segments)]
    assert len(heads) == 4
    engine = ReferenceExecutor(zoo.backbone)
    with counted(zoo.backbone) as rows:
        serve(engine, [(frame, adapter) for frame in range(FRAMES) for adapter in heads], zoo.rows)
    assert engine.segment_rows == [FRAMES] * len(zoo.backbone.segments)
    assert set(rows.values()) == {FRAMES}


def test_a_pair_that_is_wanted_twice_costs_one_row(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    adapter = lora_member(tmp_path, backbone, segments=(0,)).adapter
    engine = ReferenceExecutor(backbone)
    serve(engine, [(0, adapter)] * 5, stacked(backbone, pictures(1)))
    assert engine.segment_rows == [1] * len(backbone.segments)


def test_counts_go_on_from_batch_to_batch(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    adapter = lora_member(tmp_path, backbone).adapter
    engine = ReferenceExecutor(backbone)
    for _ in range(3):
        serve(engine, [(0, adapter), (1, adapter)], stacked(backbone, pictures(2)))
    assert engine.segment_rows == [6] * len(backbone.segments)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(0, 11)), min_size=1, max_size=20),
)
def test_counts_are_the_arithmetic_of_the_trie(zoo: Zoo, wanted: list[tuple[int, int]]) -> None:
    pairs = [(frame, zoo.members[i].adapter) for frame, i in wanted]
    engine = ReferenceExecutor(zoo.backbone)
    with counted(zoo.backbone) as rows:
        serve(engine, pairs, zoo.rows)
    expected = arithmetic(pairs, len(zoo.backbone.segments))
    assert engine.segment_rows == expected
    for segment, count in zip(zoo.backbone.segments, expected, strict=True):
        if segment.name in rows:
            assert rows[segment.name] == count, segment.name
    assert rows


def test_an_unknown_family_pays_for_every_adapter_apart(tmp_path: Path) -> None:
    backbone = random_backbone("test_byobnet")
    members = [lora_member(tmp_path / str(i), backbone, segments=(0,), seed=i) for i in range(3)]
    engine = ReferenceExecutor(backbone)
    wanted = [(frame, member.adapter) for frame in range(2) for member in members]
    with counted_stem(backbone) as calls:
        serve(engine, wanted, stacked(backbone, pictures(2)))
    assert engine.segment_rows == [6]
    assert calls == [2, 2, 2]


@contextmanager
def counted_stem(backbone: Backbone) -> Iterator[list[int]]:
    """The rows of every call of the model's first module."""
    calls: list[int] = []
    stem = next(iter(backbone.model.children()))
    handle = stem.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[0]))
    try:
        yield calls
    finally:
        handle.remove()
