"""What OpenVINO compiled gives what the backbone gives, for every range and batch size, or it is refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from openvino.frontend import OpConversionFailure
from torch import Tensor, nn

from engines import lora_member, replaced_member
from factories import SMALL, random_backbone
from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.cpu import openvino
from lensmount_server.engine.cpu.graphs import cut, traced
from lensmount_server.engine.cpu.openvino import OpenVinoCompiler
from lensmount_server.engine.cpu.openvino_units import OpenVinoUnit
from lensmount_server.engine.cpu.units import Options
from lensmount_server.engine.probes import Probes, as_is, relative_error
from lensmount_server.engine.ranges import SegmentRange

OPTIONS = Options((1, 3), wide=True)
TIGHT = 1e-5


def ranges(backbone: Backbone, *cuts: int) -> list[SegmentRange]:
    count = len(backbone.segments)
    ends = [0, *(cut % count for cut in cuts), count]
    return [SegmentRange(a, b, backbone.preprocessing) for a, b in pairwise(ends)]


def rows_for(unit: OpenVinoUnit, probe: Tensor, wide: bool = False) -> list[Tensor]:
    """Outputs for one to as many rows as each bucket, and for a single row on all cores."""
    outs = []
    for rows in unit.buckets:
        x = torch.cat([probe] * rows)[:rows].contiguous()
        outs.append(torch.full((rows, *unit.row_shape), torch.nan))
        unit.run(x, outs[-1])
    if wide:
        outs.append(torch.full((1, *unit.row_shape), torch.nan))
        assert unit.run_wide(probe[:1].contiguous(), outs[-1])
    return outs


def worst(outs: Sequence[Tensor], wanted: Tensor) -> float:
    """The largest error of a row; rows repeat those of `wanted`."""
    return max(relative_error(row, wanted[i % len(wanted)]) for out in outs for i, row in enumerate(out))


@pytest.mark.parametrize(
    "name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext2", "lcnet_050", *SMALL]
)
def test_every_range_and_batch_size_of_a_family_equals_the_backbone(name: str) -> None:
    backbone = random_backbone(name)
    compiler, probes = OpenVinoCompiler(backbone, "fp32", 2), Probes(backbone)
    for range_ in ranges(backbone, 1, -2):
        unit = compiler.compile(range_, OPTIONS)
        assert unit.buckets == OPTIONS.buckets
        outs = rows_for(unit, probes.at(range_), wide=True)
        assert worst(outs, probes.behind(range_)) < TIGHT
        assert worst([out.roll(1, dims=0) for out in outs if len(out) > 2], probes.behind(range_)) > TIGHT


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_bf16_is_rounded_but_no_more(name: str) -> None:
    backbone = random_backbone(name)
    (whole,) = ranges(backbone)
    probes = Probes(backbone)
    unit = OpenVinoCompiler(backbone, "bf16", 2).compile(whole, OPTIONS)
    assert TIGHT < worst(rows_for(unit, probes.at(whole)), probes.behind(whole)) < 0.05


def test_one_lane_has_no_wide_form() -> None:
    backbone = random_backbone("test_resnet")
    (*_, last) = ranges(backbone, -1)
    unit = OpenVinoCompiler(backbone, "fp32", 1).compile(last, OPTIONS)
    out = torch.zeros(1, *unit.row_shape)
    assert not unit.run_wide(Probes(backbone).at(last)[:1], out)
    assert not out.any()


def test_a_part_that_does_nothing_can_be_cut_out() -> None:
    """ConvNeXt's last segment is an identity: what goes in is what comes out."""
    backbone = random_backbone("test_convnext2")
    assert isinstance(backbone.model.get_submodule("norm_pre"), nn.Identity)
    (*_, last) = ranges(backbone, -1)
    probes = Probes(backbone)
    outs = rows_for(OpenVinoCompiler(backbone, "fp32", 2).compile(last, OPTIONS), probes.at(last))
    assert worst(outs, probes.at(last)) == 0


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_a_tail_with_other_tensors_is_the_adapters_and_the_next_one_the_backbones(name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    compiler, probes = OpenVinoCompiler(backbone, "fp32", 2), Probes(backbone)
    members = [
        lora_member(tmp_path / "lora", backbone, segments=(-2,)),
        replaced_member(tmp_path / "replaced", backbone, segments=(-2, -1)),
    ]
    (_, tail) = ranges(backbone, -2)
    answers = []
    for member in members:
        with as_is():
            tensors = member.adapter.merged(backbone.model)
            expected = _with(backbone, tensors, probes.at(tail), tail.start)
        outs = rows_for(compiler.compile(tail, OPTIONS, tensors), probes.at(tail))
        assert worst(outs, expected) < TIGHT
        assert worst(outs, probes.behind(tail)) > 1e-2
        answers.append(outs)
    assert worst(answers[0], answers[1][-1][:2]) > 1e-2
    assert worst(rows_for(compiler.compile(tail, OPTIONS), probes.at(tail)), probes.behind(tail)) < TIGHT


def _with(backbone: Backbone, tensors: Mapping[str, Tensor], x: Tensor, start: int) -> Tensor:
    for segment in backbone.segments[start:]:
        own = {name: tensor for name, tensor in tensors.items() if segment.owns_tensor(name)}
        x = segment.run_replaced(own, x)
    return x


@pytest.mark.parametrize(
    ("name", "shape"), [("blocks.0.norm1.weight", (64,)), ("no.such.weight", (64,)), ("norm.weight", (63,))]
)
def test_a_tensor_without_a_place_in_the_range_is_refused(name: str, shape: tuple[int, ...]) -> None:
    backbone = random_backbone("test_vit")
    (*_, last) = ranges(backbone, -1)
    with pytest.raises(ServerError, match="no place in the compiled graph") as caught:
        OpenVinoCompiler(backbone, "fp32", 1).compile(last, OPTIONS, {name: torch.zeros(shape)})
    assert caught.value.value == name


def late(whole: Any, range_: SegmentRange) -> Any:
    """Cuts ranges out of the graph one segment late."""
    return cut(whole, SegmentRange(range_.start + 1, range_.stop, range_.preprocessing))


def test_a_wrong_graph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("test_vit")
    range_ = SegmentRange(2, 6, backbone.preprocessing)
    OpenVinoCompiler(backbone, "fp32", 1).compile(range_, OPTIONS)
    monkeypatch.setattr(openvino, "cut", late)
    with pytest.raises(ServerError, match="differs from the backbone"):
        OpenVinoCompiler(backbone, "fp32", 1).compile(range_, OPTIONS)


@pytest.mark.parametrize("spoilt", ["run", "run_wide"])
def test_a_wrong_form_is_refused(spoilt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("test_resnet")
    (*_, last) = ranges(backbone, -1)
    run = getattr(OpenVinoUnit, spoilt)

    def wrong(unit: OpenVinoUnit, x: Tensor, out: Tensor) -> Any:
        result = run(unit, x, out)
        if len(x) == OPTIONS.buckets[-1] or spoilt == "run_wide":
            out[-1] += torch.nan
        return result

    monkeypatch.setattr(OpenVinoUnit, spoilt, wrong)
    with pytest.raises(ServerError, match="differs from the backbone"):
        OpenVinoCompiler(backbone, "fp32", 2).compile(last, OPTIONS)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("where it is\nwhat it is"), "what it is"),
        (RuntimeError(), "RuntimeError"),
        (OpConversionFailure("No conversion rule for aten::bernoulli"), "aten::bernoulli"),
    ],
)
@pytest.mark.parametrize("where", ["traced", "put", "relative_error"])
def test_an_error_of_openvino_is_an_error_of_ours(
    where: str, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    backbone = random_backbone("test_resnet")
    (*_, last) = ranges(backbone, -1)
    monkeypatch.setattr(openvino, where, fails)
    with pytest.raises(ServerError, match=reason) as caught:
        OpenVinoCompiler(backbone, "fp32", 1).compile(last, Options((1,)))
    assert (caught.value.field, caught.value.value) == ("engine", backbone.name)
    assert "--engine torch" in caught.value.fix


def test_an_operator_that_openvino_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone("test_resnet")
    monkeypatch.setattr(type(backbone.preprocessing), "normalize", lambda _, x: torch.special.bessel_j0(x / 255))
    with pytest.raises(ServerError, match="OpenVINO can not compile it"):
        OpenVinoCompiler(backbone, "fp32", 1).compile(ranges(backbone)[0], OPTIONS)


def test_compiling_in_other_threads_changes_no_answer(tmp_path: Path) -> None:
    """Two threads compile, the first graph included, while others run what is there."""
    backbone = random_backbone("test_resnet")
    compiler, probes = OpenVinoCompiler(backbone, "fp32", 2), Probes(backbone)
    adapter = lora_member(tmp_path, backbone, segments=(-2,)).adapter
    head, tail = ranges(backbone, -2)
    with as_is():
        tensors = adapter.merged(backbone.model)
        expected = _with(backbone, tensors, probes.at(tail), tail.start)
    errors: list[float] = []
    done = threading.Event()

    def compiling() -> None:
        for _ in range(3):
            errors.append(worst(rows_for(compiler.compile(tail, OPTIONS, tensors), probes.at(tail)), expected))
            errors.append(worst(rows_for(compiler.compile(head, OPTIONS), probes.at(head)), probes.behind(head)))

    def running(unit: OpenVinoUnit) -> None:
        while not done.is_set():
            errors.append(worst(rows_for(unit, probes.at(head), wide=True), probes.behind(head)))

    compilers = [threading.Thread(target=compiling) for _ in range(2)]
    for thread in compilers:
        thread.start()
    unit = compiler.compile(head, OPTIONS)
    runners = [threading.Thread(target=running, args=(unit,)) for _ in range(3)]
    for thread in runners:
        thread.start()
    for thread in compilers:
        thread.join()
    done.set()
    for thread in runners:
        thread.join()
    assert len(errors) > 12
    assert max(errors) < TIGHT
    assert len(compiler._graphs) == 1


def test_many_threads_trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracer changes what the whole process sees (warnings), and a graph takes as much memory as the backbone."""
    graphs: list[Any] = []

    def counted(*arguments: Any) -> Any:
        graphs.append(traced(*arguments))
        return graphs[-1]

    monkeypatch.setattr(openvino, "traced", counted)
    backbone = random_backbone("test_resnet")
    compiler = OpenVinoCompiler(backbone, "fp32", 1)
    threads = [threading.Thread(target=compiler._whole, args=(backbone.preprocessing,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(graphs) == 1


def test_a_unit_weighs_what_its_segments_weigh_in_every_form() -> None:
    backbone = random_backbone("test_vit")
    compiler = OpenVinoCompiler(backbone, "bf16", 2)
    (*_, last) = ranges(backbone, -1)
    assert compiler.compile(last, Options((1, 2))).size_bytes == 2 * (2 * 64) * 2
    assert compiler.compile(last, OPTIONS).size_bytes == 2 * (2 * 64) * 3


def test_outputs_are_written_where_they_belong() -> None:
    """Into a slice of a larger tensor, and nowhere else; the next run does not write there again."""
    backbone = random_backbone("test_resnet")
    (*_, last) = ranges(backbone, -1)
    probes = Probes(backbone)
    unit = OpenVinoCompiler(backbone, "fp32", 1).compile(last, Options((1,)))
    out = torch.full((3, *unit.row_shape), 7.0)
    unit.run(probes.at(last)[:1].contiguous(), out[1:2])
    kept = out.clone()
    unit.run(probes.at(last)[1:].contiguous(), torch.empty(1, *unit.row_shape))
    assert torch.equal(out, kept)
    assert bool((out[0] == 7).all())
    assert bool((out[2] == 7).all())
    assert relative_error(out[1], probes.behind(last)[0]) < TIGHT
