"""A row is its own: it does not depend on neighbours, order or batch size, and no other adapter gets near it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engines import FRAMES, Zoo, distance, serve
from lensmount_adapters.backbones import Segment
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_adapters.deltas import RowDelta, added
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine import mixed, reference
from lensmount_server.engine.reference import ReferenceExecutor

TOLERANCE = 1e-4
FAR = 1e-2
MEMBERS = 12
EVERYTHING = [(frame, number) for frame in range(FRAMES) for number in range(MEMBERS)]
Wanted = Sequence[tuple[int, int]]
Parts = Mapping[str, Sequence[RowDelta]]

wanted_pairs = st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(0, MEMBERS - 1)), min_size=1, max_size=24)


def distances(zoo: Zoo, wanted: Wanted) -> list[float]:
    """How far each wanted row is from the member's own model run alone."""
    answers = serve(ReferenceExecutor(zoo.backbone), ((frame, zoo.members[i].adapter) for frame, i in wanted), zoo.rows)
    keys = [(frame, zoo.members[i].adapter.content_hash) for frame, i in wanted]
    assert answers.keys() == set(keys)
    return [distance(answers[key], zoo.expected[key]) for key in keys]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=wanted_pairs)
def test_a_row_of_any_batch_equals_its_adapter_run_alone(zoo: Zoo, wanted: Wanted) -> None:
    assert max(distances(zoo, wanted)) < TOLERANCE


def test_the_largest_batch_leaves_the_backbone_as_it_was(zoo: Zoo) -> None:
    assert max(distances(zoo, EVERYTHING)) < TOLERANCE
    assert fingerprint(zoo.backbone.model) == zoo.backbone.fingerprint
    assert not [name for name, module in zoo.backbone.model.named_modules() if module._forward_hooks]
    assert max(distances(zoo, EVERYTHING)) < TOLERANCE


def test_a_batch_that_fails_leaves_the_backbone_as_it_was(zoo: Zoo) -> None:
    right = zoo.members[0].adapter
    ((index, edits),) = right.lora.items()
    misfits = {name: LoraDelta(delta.a[:, :5], delta.b, delta.scale) for name, delta in edits.items()}
    wrong = replace(right, content_hash="f" * 64, lora={index: misfits})
    with pytest.raises(RuntimeError):
        serve(ReferenceExecutor(zoo.backbone), [(0, wrong), *((1, member.adapter) for member in zoo.members)], zoo.rows)
    assert fingerprint(zoo.backbone.model) == zoo.backbone.fingerprint
    assert not [name for name, module in zoo.backbone.model.named_modules() if module._forward_hooks]
    assert max(distances(zoo, EVERYTHING)) < TOLERANCE


def test_one_executor_serves_batch_after_batch(zoo: Zoo) -> None:
    engine = ReferenceExecutor(zoo.backbone)
    for start in range(MEMBERS):
        wanted = [(frame, zoo.members[(start + frame) % MEMBERS].adapter) for frame in range(FRAMES)]
        answers = serve(engine, wanted, zoo.rows)
        assert max(distance(answers[key], zoo.expected[key]) for key in answers) < TOLERANCE


@torch.inference_mode()
def test_frames_and_adapters_differ_by_far_more_than_the_tolerance(zoo: Zoo) -> None:
    """Otherwise rows that were mixed up would pass."""
    for number, member in enumerate(zoo.members):
        own = member.adapter.content_hash
        for frame in range(FRAMES):
            others = [zoo.expected[other, own] for other in range(FRAMES) if other != frame]
            others += [
                zoo.expected[frame, other.adapter.content_hash] for i, other in enumerate(zoo.members) if i != number
            ]
            assert min(distance(zoo.expected[frame, own], other) for other in others) > 10 * TOLERANCE


def exchanged(deltas: Parts, _: int) -> Parts:
    """Every part gets the delta of the part behind it."""
    return {
        name: [RowDelta(part.start, part.stop, parts[i - 1].delta) for i, part in enumerate(parts)]
        for name, parts in deltas.items()
    }


def shifted(deltas: Parts, rows: int) -> Parts:
    """Every delta is added one row too early or too late."""
    step = 1 if rows > 1 else 0
    return {
        name: [RowDelta(max(p.start - step, 0), p.stop - step, p.delta) for p in parts]
        for name, parts in deltas.items()
    }


def everywhere(deltas: Parts, rows: int) -> Parts:
    """Every delta is added to all rows."""
    return {name: [RowDelta(0, rows, part.delta) for part in parts] for name, parts in deltas.items()}


def nowhere(_: Parts, __: int) -> Parts:
    """No delta is added."""
    return {}


def doubled(deltas: Parts, _: int) -> Parts:
    """Every delta is added twice."""
    return {name: [*parts, *parts] for name, parts in deltas.items()}


@pytest.mark.parametrize("fault", [exchanged, shifted, everywhere, nowhere, doubled])
def test_an_engine_that_adds_deltas_wrongly_is_caught(
    zoo: Zoo, fault: Callable[[Parts, int], Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(model: nn.Module, deltas: Parts, rows: int) -> AbstractContextManager[None]:
        return added(model, fault(deltas, rows), rows)

    monkeypatch.setattr(mixed, "added", faulty)
    assert max(distances(zoo, EVERYTHING)) > FAR


def test_an_engine_that_forgets_replaced_segments_is_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(segment: Segment, _: dict[str, Tensor], x: Tensor) -> Tensor:
        return segment(x)

    monkeypatch.setattr(Segment, "run_replaced", forgetful)
    assert max(distances(zoo, EVERYTHING)) > FAR


def test_an_engine_that_is_off_by_one_row_is_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    split = torch.split

    def rolled(rows: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        return split(torch.roll(rows, 1, dims=0), sizes)

    monkeypatch.setattr(torch, "split", rolled)
    assert max(distances(zoo, EVERYTHING)) > FAR


def test_an_engine_that_picks_other_frames_is_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(x: Tensor, have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
        return x[[have.index(frame) for frame in reversed(want)]]

    monkeypatch.setattr(reference, "taken", backwards)
    assert max(distances(zoo, EVERYTHING)) > FAR
