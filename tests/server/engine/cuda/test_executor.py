"""The GPU path against the plain executor and each adapter's own model, over all that an adapter can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engines import FRAMES, Answers, Member, Zoo, alone, beyond_lora, distance, lora_member, make_zoo, serve
from factories import pictures, random_backbone, stacked
from lensmount.errors import IncompatibleError, ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_server.engine.cuda import executor as module
from lensmount_server.engine.cuda.executor import CudaExecutor
from lensmount_server.engine.cuda.layout import gathered
from lensmount_server.engine.cuda.precision import Precision
from lensmount_server.engine.cuda.slots import Slots
from lensmount_server.engine.reference import ReferenceExecutor

TOLERANCE = 1e-4
FAR = 1e-2
MEMBERS = 12
SLOTS = 12
EVERYTHING = [(frame, number) for frame in range(FRAMES) for number in range(MEMBERS)]
Wanted = Sequence[tuple[int, int]]


def moved(adapter: Adapter, device: torch.device) -> Adapter:
    """The adapter as `fit` would have put it on a backbone there."""
    lora = {index: {name: edit.to(device) for name, edit in edits.items()} for index, edits in adapter.lora.items()}
    replaced = {
        index: {name: tensor.to(device) for name, tensor in tensors.items()}
        for index, tensors in adapter.replaced.items()
    }
    return replace(adapter, lora=lora, replaced=replaced, head=adapter.head.to(device))


@pytest.fixture(scope="module", params=["test_vit", "test_resnet", "test_efficientnet"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Zoo:
    """The members' own models answer on the CPU first; then backbone and adapters go to the device."""
    made = make_zoo(tmp_path_factory.mktemp("zoo"), random_backbone(request.param))
    made.backbone.model.to(device)
    return replace(made, members=tuple(Member(moved(m.adapter, device), m.oracle) for m in made.members))


def served(engine: CudaExecutor | ReferenceExecutor, zoo: Zoo, wanted: Wanted) -> Answers:
    answers = serve(engine, [(frame, zoo.members[i].adapter) for frame, i in wanted], zoo.rows)
    return {key: row.float().cpu() for key, row in answers.items()}


def worst(zoo: Zoo, wanted: Wanted, engine: CudaExecutor | None = None) -> float:
    """How far the worst of the wanted rows is from the member's own model run alone."""
    answers = served(engine or CudaExecutor(zoo.backbone, slots=SLOTS), zoo, wanted)
    assert answers.keys() == {(frame, zoo.members[i].adapter.content_hash) for frame, i in wanted}
    return max(distance(answers[key], zoo.expected[key]) for key in answers)


def test_the_largest_batch_equals_every_members_own_model(zoo: Zoo) -> None:
    assert worst(zoo, EVERYTHING) < TOLERANCE


def test_it_equals_the_plain_executor_and_counts_the_same_rows(zoo: Zoo) -> None:
    wanted = [(frame, i) for frame in range(3) for i in range(MEMBERS) if (frame + i) % 3]
    plain, ours = ReferenceExecutor(zoo.backbone), CudaExecutor(zoo.backbone, slots=SLOTS)
    oracle, answers = served(plain, zoo, wanted), served(ours, zoo, wanted)
    assert max(distance(answers[key], oracle[key]) for key in oracle) < TOLERANCE
    assert ours.segment_rows == plain.segment_rows


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    wanted=st.lists(
        st.tuples(st.integers(0, FRAMES - 1), st.integers(0, MEMBERS - 1)), min_size=1, max_size=10, unique=True
    )
)
def test_any_batch_does(zoo: Zoo, wanted: Wanted) -> None:
    assert worst(zoo, wanted) < TOLERANCE


def test_a_pass_of_more_adapters_than_slots_runs_in_parts(zoo: Zoo) -> None:
    engine = CudaExecutor(zoo.backbone, slots=3)
    wanted = [(i % FRAMES, i) for i in range(MEMBERS)]
    assert worst(zoo, wanted, engine) < TOLERANCE
    assert len(engine.slots.table.residents) == 3


def test_adapters_that_come_and_go_through_few_slots_stay_themselves(zoo: Zoo) -> None:
    engine = CudaExecutor(zoo.backbone, slots=2)
    engine.slots.load(zoo.members[0].adapter)
    engine.slots.table.pin(zoo.members[0].adapter.content_hash)
    for start in range(MEMBERS):
        assert worst(zoo, [(0, start), (1, (start + 5) % MEMBERS)], engine) < TOLERANCE
    assert zoo.members[0].adapter.content_hash in engine.slots.table.residents
    assert not any(engine.slots.table.users(name) for name in engine.slots.table.residents)


def test_the_backbone_stays_as_it_was(zoo: Zoo) -> None:
    worst(zoo, EVERYTHING[::5])
    assert fingerprint(zoo.backbone.model) == zoo.backbone.fingerprint
    assert not any("forward" in part.__dict__ for part in zoo.backbone.model.modules())


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.15), ("fp16", 0.02)])
def test_half_precision_is_near_and_leaves_the_shared_backbone_alone(
    zoo: Zoo, precision: Precision, tolerance: float
) -> None:
    """The bounds are those of these small random models; torch's own arithmetic is as far from float32."""
    assert worst(zoo, EVERYTHING[::7], CudaExecutor(zoo.backbone, precision, slots=SLOTS)) < tolerance
    assert {parameter.dtype for parameter in zoo.backbone.model.parameters()} == {torch.float32}


@torch.inference_mode()
def test_slots_that_were_exchanged_would_be_caught(zoo: Zoo) -> None:
    engine = CudaExecutor(zoo.backbone, slots=SLOTS)
    wanted = [(0, 0), (1, 1)]
    assert worst(zoo, wanted, engine) < TOLERANCE
    one, other = (engine.slots.table.residents[zoo.members[i].adapter.content_hash] for i in (0, 1))
    for name in next(iter(zoo.members[0].adapter.lora.values())):
        stack = engine.slots.stack(name)
        for tensor in stack.tensors:
            tensor[[one, other]] = tensor[[other, one]]
    assert worst(zoo, wanted, engine) > FAR


def test_rows_that_read_their_neighbours_slot_would_be_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def crossed(slots: Slots, name: str) -> object:
        stack = original(slots, name)
        return replace(stack, a=stack.a.roll(1, 0), b=stack.b.roll(1, 0), scale=stack.scale.roll(1, 0))

    original = Slots.stack
    monkeypatch.setattr(Slots, "stack", crossed)
    assert worst(zoo, EVERYTHING[::5]) > FAR


def test_rows_without_their_edit_would_be_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(slots: Slots, name: str) -> object:
        stack = original(slots, name)
        return replace(stack, scale=torch.zeros_like(stack.scale))

    original = Slots.stack
    monkeypatch.setattr(Slots, "stack", idle)
    assert worst(zoo, EVERYTHING[::5]) > FAR


def test_rows_gathered_wrongly_would_be_caught(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def rolled(x: Tensor, positions: tuple[int, ...] | None) -> Tensor:
        return gathered(x, positions and (*positions[1:], positions[0]))

    monkeypatch.setattr(module, "gathered", rolled)
    assert worst(zoo, EVERYTHING[::5]) > FAR


def test_a_pass_that_fails_gives_everything_back(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise ServerError("a defect")

    engine = CudaExecutor(zoo.backbone, slots=SLOTS)
    with monkeypatch.context() as patch:
        patch.setattr(module, "edited_linear", broken)
        patch.setattr(module, "edited_conv", broken)
        with pytest.raises(ServerError, match="a defect"):
            worst(zoo, EVERYTHING[::5], engine)
    assert not any(engine.slots.table.users(name) for name in engine.slots.table.residents)
    assert not any("forward" in part.__dict__ for part in zoo.backbone.model.modules())
    assert worst(zoo, EVERYTHING[::5], engine) < TOLERANCE


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_every_kind_of_lora_is_right_in_one_batch(
    name: str, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DoRA, biases and parts of a fused `qkv`, against PEFT's own models; a slot without its bias would be caught."""
    backbone = random_backbone(name)
    members = beyond_lora(tmp_path, backbone).values()
    rows = stacked(backbone, pictures(2))
    expected = {(f, m.adapter.content_hash): alone(backbone, m, rows[f]) for f in range(2) for m in members}
    backbone.model.to(device)
    wanted = [(f, moved(m.adapter, device)) for f in range(2) for m in members]
    answers = serve(CudaExecutor(backbone), wanted, rows)
    assert max(distance(answers[key].cpu(), expected[key]) for key in expected) < TOLERANCE

    def unbiased(slots: Slots, name: str) -> object:
        stack = original(slots, name)
        return replace(stack, bias=torch.zeros_like(stack.bias))

    original = Slots.stack
    monkeypatch.setattr(Slots, "stack", unbiased)
    answers = serve(CudaExecutor(backbone), wanted, rows)
    off = {key: distance(answers[key].cpu(), expected[key]) for key in expected}
    biased = {
        m.adapter.content_hash
        for m in members
        if any(d.bias is not None for e in m.adapter.lora.values() for d in e.values())
    }
    assert {key[1] for key in off if off[key] > FAR} == biased


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "test_convnext", "test_vit_relpos"])
def test_windows_and_unknown_families_are_right_too(name: str, tmp_path: Path, device: torch.device) -> None:
    backbone = random_backbone(name)
    editable = [i for i, segment in enumerate(backbone.segments) if segment.editable_modules()]
    members = [
        lora_member(tmp_path / str(i), backbone, segments=(editable[-1 - i % len(editable)],), seed=i) for i in range(2)
    ]
    rows = stacked(backbone, pictures(2))
    plain = serve(ReferenceExecutor(backbone), [(f, m.adapter) for f in range(2) for m in members], rows)
    backbone.model.to(device)
    wanted = [(f, moved(m.adapter, device)) for f in range(2) for m in members]
    answers = serve(CudaExecutor(backbone), wanted, rows)
    assert max(distance(answers[key].cpu(), plain[key]) for key in plain) < TOLERANCE


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERPRETED", False)
    with pytest.raises(IncompatibleError, match="must be on a CUDA device") as caught:
        CudaExecutor(random_backbone("test_vit"))
    assert (caught.value.field, caught.value.value) == ("device", "cpu")
