"""Compiled LoRA forms: one for a structure, whatever the adapter; never with another adapter's tensors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from openvino import opset13 as ops

from engines import FRAMES, SideBySide, Zoo, compiled_lora_form, distance, lora_member, make_zoo, serve
from factories import random_backbone
from lensmount.errors import IncompatibleError, ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.cpu import forms, graphs
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.forms import LoraForms, Structure, structure_of
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.openvino_units import OpenVinoUnit
from lensmount_server.engine.cpu.units import LoraUnit, Options, Unit
from lensmount_server.engine.ranges import SegmentRange

OPTIONS = Options((1, 2), wide=True)
TOLERANCE, FAR = 2e-5, 1e-2
# Of the zoo: LoRA on Linear modules only.
BOUND = (0, 1, 2)
SEGMENTS = 8
LOG = "lensmount_server.engine.cpu.forms"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return make_zoo(tmp_path_factory.mktemp("zoo"), random_backbone("test_vit"))


@pytest.fixture(scope="module")
def compiler(vit: Zoo) -> SideBySide:
    return SideBySide(OpenVinoCompiler(vit.backbone, "fp32", 2))


@pytest.fixture
def executor(vit: Zoo, compiler: SideBySide) -> Iterator[CpuExecutor]:
    made = compiled_lora_form(vit.backbone, compiler, OPTIONS, vit.members[:3])
    yield made
    made.close()


def wrong(executor: CpuExecutor, zoo: Zoo, *numbers: int) -> set[int]:
    """The members, of those asked, with a row that is not their own model's."""
    asked = [(frame, zoo.members[number].adapter) for frame in range(FRAMES) for number in numbers]
    answers = serve(executor, asked, zoo.rows)
    return {
        number
        for (frame, own), logits in answers.items()
        for number in numbers
        if zoo.members[number].adapter.content_hash == own
        and not distance(logits, zoo.expected[frame, own]) < TOLERANCE
    }


def test_adapters_of_one_structure_share_a_form(executor: CpuExecutor, vit: Zoo) -> None:
    assert [executor._forms.get(vit.members[number].adapter.content_hash) is not None for number in BOUND] == [True] * 3
    assert len(executor._forms._forms) == 2  # ranks 4 and 4 of one segment; rank 1 of two
    assert not wrong(executor, vit, *BOUND)


def test_every_adapter_alone_and_in_turns_is_its_own(executor: CpuExecutor, vit: Zoo) -> None:
    """A request that ran one adapter runs another next, and the first again."""
    for number in (0, 1, 0, 2, 1, 1, 0):
        assert not wrong(executor, vit, number)


def test_two_forms_exchanged_are_caught(executor: CpuExecutor, vit: Zoo) -> None:
    first, second = (executor._forms.get(vit.members[number].adapter.content_hash) for number in (0, 1))
    assert first is not None
    assert second is not None
    first.unit, second.unit = second.unit, first.unit
    assert wrong(executor, vit, *BOUND) == {0, 1}


def no_binding(unit: OpenVinoUnit, request: object) -> None:
    del unit, request


def test_tensors_that_stay_in_a_request_are_caught(
    executor: CpuExecutor, vit: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form's worst fault: a request keeps what the adapter before left there."""
    assert not wrong(executor, vit, 1)
    monkeypatch.setattr(OpenVinoUnit, "_bind", no_binding)
    assert wrong(executor, vit, 0)


def test_a_binding_that_fails_half_way_leaves_nothing_behind(vit: Zoo, compiler: SideBySide, tmp_path: Path) -> None:
    executor = compiled_lora_form(vit.backbone, compiler, Options((1,)), vit.members[:2])
    first, second = (executor._forms.get(vit.members[number].adapter.content_hash) for number in (0, 1))
    assert first is not None
    assert second is not None
    whole = second.unit._inputs  # type: ignore[attr-defined]
    second.unit._inputs = [*whole[:2], (None, "no tensor")]  # type: ignore[attr-defined]
    for _ in range(4):
        assert not wrong(executor, vit, 0)
        with pytest.raises(TypeError):
            serve(executor, [(0, vit.members[1].adapter)], vit.rows)
    assert not wrong(executor, vit, 0)
    second.unit._inputs = whole  # type: ignore[attr-defined]
    assert not wrong(executor, vit, 0, 1)
    executor.close()


def test_other_modules_than_those_compiled_are_refused(vit: Zoo, compiler: SideBySide) -> None:
    structure = structure_of(vit.members[0].adapter, len(vit.backbone.segments))
    assert structure is not None
    form = compiler.compile_lora(structure.range_, Options((1,)), dict(structure.ranks))
    assert form is not None
    with pytest.raises(ServerError, match="other modules than it was compiled for"):
        form.bind({"blocks.0.attn.qkv": LoraDelta(torch.zeros(1, 64), torch.zeros(192, 1), 1.0)})


class Forgetful(SideBySide):
    """Its LoRA forms run the base."""

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> LoraUnit | None:
        form = super().compile_lora(range_, options, ranks)
        assert form is not None
        nothing = self.compiler._nothing  # type: ignore[attr-defined]
        bind, base = form.bind, {name: nothing(name, rank) for name, rank in ranks.items()}
        form.bind = lambda _: bind(base)  # type: ignore[method-assign,assignment]
        return form


def test_a_form_that_does_not_answer_as_torch_does_is_not_taken(vit: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOG):
        made = compiled_lora_form(
            vit.backbone, Forgetful(OpenVinoCompiler(vit.backbone, "fp32", 1)), OPTIONS, vit.members[:1]
        )
    assert "its compiled LoRA form differs from torch's" in caplog.text
    assert made._forms.get(vit.members[0].adapter.content_hash) is None
    assert not wrong(made, vit, 0)
    made.close()


def test_a_layer_that_is_used_twice_has_no_form(vit: Zoo) -> None:
    """Its weight is one constant with two products: which of them has the edit?"""
    compiler = OpenVinoCompiler(vit.backbone, "fp32", 1)
    last = SegmentRange(len(vit.backbone.segments) - 2, len(vit.backbone.segments), vit.backbone.preprocessing)
    name = next(name for name in vit.backbone.segments[-2].editable_modules() if name.endswith("attn.proj"))
    graph = graphs.cut(compiler._whole(last.preprocessing), last)
    assert graphs.with_lora(graph.clone(), {name: 8}) is not None
    weight = graphs._constants(graph)[f"{graphs.PREFIX}{name}.weight"]
    product = graphs._product(weight)
    assert product is not None
    twice = ops.matmul(product.input_value(0), weight, transpose_a=False, transpose_b=True)
    assert len(weight.output(0).get_target_inputs()) == 2
    assert graphs.with_lora(graph, {name: 8}) is None
    del twice


def test_convolutions_have_no_form(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    member = lora_member(tmp_path / "conv", backbone, segments=(-2,))
    made = compiled_lora_form(backbone, OpenVinoCompiler(backbone, "fp32", 1), OPTIONS, [member])
    assert made._forms.get(member.adapter.content_hash) is None
    made.close()


def test_an_adapter_that_overflows_leaves_no_form(executor: CpuExecutor, vit: Zoo) -> None:
    adapter = vit.members[0].adapter
    lora = {
        index: {name: replace(delta, scale=1e38) for name, delta in deltas.items()}
        for index, deltas in adapter.lora.items()
    }
    broken = replace(adapter, lora=lora, content_hash="broken")
    with pytest.raises(IncompatibleError, match="NaN or infinity"):
        executor.mount(broken)
    assert executor._forms.get("broken") is None
    assert not wrong(executor, vit, *BOUND)


def test_a_tail_is_merged_after_so_many_rows(vit: Zoo, compiler: SideBySide) -> None:
    made = CpuExecutor(vit.backbone, compiler, OPTIONS, 1 << 40, merge_after=2 * FRAMES)
    often, seldom = (vit.members[number].adapter for number in (0, 1))
    for adapter in (often, seldom):
        made.mount(adapter)
    assert not wrong(made, vit, 0, 1)
    made.settle()
    assert made._tails.get(often) is None
    for _ in range(2):  # the batch that finds it has had enough rows wants it
        assert not wrong(made, vit, 0)
    made.settle()
    assert made._tails.get(often) is not None
    assert made._tails.get(seldom) is None
    made.merge(seldom.content_hash)
    assert made._tails.get(seldom) is not None
    assert not wrong(made, vit, 0, 1)
    made.close()


def test_a_promotion_does_not_wait_for_a_tail_that_is_merged_later(vit: Zoo, compiler: SideBySide) -> None:
    held, go_on = threading.Event(), threading.Event()
    made = CpuExecutor(vit.backbone, compiler, OPTIONS, 1 << 40)
    merge = made._tails._merge

    def slowly(adapter: Adapter) -> Unit:
        held.set()
        assert go_on.wait(60)
        return merge(adapter)

    made._tails._merge = slowly
    made.mount(vit.members[0].adapter)
    assert held.wait(60)
    made.settle(vit.members[0].adapter.content_hash)
    assert made._tails.get(vit.members[0].adapter) is None
    assert not wrong(made, vit, 0)
    go_on.set()
    made.settle()
    assert made._tails.get(vit.members[0].adapter) is not None
    made.close()


def test_what_has_no_form_is_merged_at_once(vit: Zoo, compiler: SideBySide) -> None:
    made = CpuExecutor(vit.backbone, compiler, OPTIONS, 1 << 40, merge_after=1000)
    made.mount(vit.members[6].adapter)
    made.settle()
    assert made._tails.get(vit.members[6].adapter) is not None
    made.close()


def test_a_trial_waits_for_its_turn(executor: CpuExecutor, vit: Zoo) -> None:
    """Both want all cores: a batch under way is not held up."""
    mounting = threading.Thread(target=executor.mount, args=(replace(vit.members[0].adapter, content_hash="late"),))
    with executor._turns.a_pass():
        mounting.start()
        mounting.join(0.2)
        assert mounting.is_alive()
    mounting.join(60)
    assert executor._forms.get("late") is not None


@dataclass(frozen=True, eq=False)
class Nothing:
    """A form of some size that runs nothing."""

    size_bytes: int

    def bind(self, deltas: Mapping[str, LoraDelta]) -> Unit:
        del deltas
        return self  # type: ignore[return-value]


@dataclass
class Compiling:
    """Makes forms of the sizes it is told (a third of what is enough otherwise)."""

    made: list[Structure] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    fails: bool = False

    def __call__(self, structure: Structure, adapter: Adapter) -> LoraUnit | None:
        del adapter
        if self.fails:
            raise ServerError("it can not")
        self.made.append(structure)
        return Nothing(self.sizes.get(structure.ranks[0][1], forms.ENOUGH_BYTES // 3 + 1))


@pytest.fixture
def compiling() -> Compiling:
    return Compiling()


@pytest.fixture
def kept(compiling: Compiling) -> Iterator[LoraForms]:
    made = LoraForms(compiling, SEGMENTS)
    yield made
    made.close()


Ranked = Callable[[str, int], Adapter]


@pytest.fixture(scope="module")
def ranked(vit: Zoo) -> Ranked:
    adapter = vit.members[0].adapter

    def make(content_hash: str, rank: int) -> Adapter:
        delta = LoraDelta(torch.zeros(rank, 4), torch.zeros(4, rank), 1.0)
        return replace(adapter, content_hash=content_hash, lora={1: {"a": delta}})

    return make


def test_ranks_are_filled_up_so_that_there_are_few_structures(
    kept: LoraForms, compiling: Compiling, ranked: Ranked
) -> None:
    for rank in (1, 7, 8, 9, 16, 17):
        kept.mount(ranked(f"rank-{rank}", rank))
    assert [structure.ranks for structure in compiling.made] == [(("a", 8),), (("a", 16),), (("a", 32),)]


def test_no_more_is_compiled_than_there_is_memory_for(kept: LoraForms, compiling: Compiling, ranked: Ranked) -> None:
    names = {8: "a", 16: "b", 32: "c"}
    for rank, name in names.items():
        assert kept.mount(ranked(name, rank)) is not None
    assert kept.mount(ranked("d", 64)) is None
    assert len(compiling.made) == 3
    kept.unmount("b")
    assert kept.mount(ranked("d", 64)) is not None  # nobody used the second
    assert kept.mount(ranked("b", 16)) is None
    assert kept.mount(ranked("e", 8)) is not None


def test_a_structure_that_was_used_last_stays_longest(kept: LoraForms, compiling: Compiling, ranked: Ranked) -> None:
    for rank in (8, 16, 32, 8):
        kept.mount(ranked("one", rank))
        kept.unmount("one")
    kept.mount(ranked("new", 64))
    assert {structure.ranks[0][1] for structure in kept._forms} == {32, 8, 64}


def test_what_can_not_be_compiled_is_told_and_leaves_nothing(
    kept: LoraForms, compiling: Compiling, ranked: Ranked, caplog: pytest.LogCaptureFixture
) -> None:
    compiling.fails = True
    with caplog.at_level(logging.WARNING, LOG):
        assert kept.mount(ranked("a", 8)) is None
    assert "has no compiled LoRA form: it can not" in caplog.text
    assert kept.get("a") is None
    compiling.fails = False
    assert kept.mount(ranked("a", 8)) is not None


def test_only_lora_has_a_structure(vit: Zoo) -> None:
    segments = len(vit.backbone.segments)
    structures = [structure_of(member.adapter, segments) for member in vit.members]
    assert [number for number, structure in enumerate(structures) if structure] == [0, 1, 2, 3]
    assert structures[0] == structures[1]


def test_a_form_has_no_place_for_a_bias(vit: Zoo) -> None:
    adapter, segments = vit.members[0].adapter, len(vit.backbone.segments)
    lora = {
        index: {name: replace(delta, bias=torch.ones(len(delta.b))) for name, delta in deltas.items()}
        for index, deltas in adapter.lora.items()
    }
    assert structure_of(adapter, segments) is not None
    assert structure_of(replace(adapter, lora=lora), segments) is None


def test_many_threads_mount_one_structure_once(kept: LoraForms, compiling: Compiling, ranked: Ranked) -> None:
    adapters = [ranked(str(number), 8) for number in range(8)]
    threads = [threading.Thread(target=kept.mount, args=(adapter,)) for adapter in adapters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiling.made) == 1
    assert all(kept.get(adapter.content_hash) for adapter in adapters)
