"""Ranges that torch runs itself, and copies of them with other tensors."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engines import lora_member
from factories import random_backbone
from lensmount_server.engine.cpu.eager import EagerCompiler, EagerUnit
from lensmount_server.engine.cpu.units import Options
from lensmount_server.engine.probes import Probes, as_is, relative_error
from lensmount_server.engine.ranges import SegmentRange

OPTIONS = Options()


def output(unit: EagerUnit, x: Tensor) -> Tensor:
    out = torch.full((len(x), *unit.row_shape), torch.nan)
    unit.run(x, out)
    return out


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_every_range_equals_the_backbone(name: str, precision: str, tolerance: float) -> None:
    backbone = random_backbone(name)
    compiler, probes = EagerCompiler(backbone, precision), Probes(backbone)
    count = len(backbone.segments)
    for start, stop in ((0, 1), (0, count), (1, count - 1), (count - 1, count)):
        range_ = SegmentRange(start, stop, backbone.preprocessing)
        unit = compiler.compile(range_, OPTIONS)
        assert not unit.size_bytes
        assert not unit.run_wide(probes.at(range_)[:1], torch.empty(0))
        assert relative_error(output(unit, probes.at(range_)), probes.behind(range_)) < tolerance


def test_a_tail_is_not_touched_by_the_deltas_that_other_rows_get_at_that_moment(tmp_path: Path) -> None:
    """The engine's thread hangs deltas on modules as hooks; a copy of those would answer with them for ever."""
    backbone = random_backbone("test_resnet")
    compiler, probes = EagerCompiler(backbone, "fp32"), Probes(backbone)
    adapter = lora_member(tmp_path, backbone, segments=(-2,)).adapter
    range_ = SegmentRange(adapter.fork, len(backbone.segments), backbone.preprocessing)
    with as_is():
        tensors = adapter.merged(backbone.model)
    wanted = output(compiler.compile(range_, OPTIONS, tensors), probes.at(range_))
    (edits,) = adapter.lora.values()
    hooked = compiler.backbone.model.get_submodule(next(iter(edits)))
    handle = hooked.register_forward_hook(lambda _, __, y: y + 1)
    meanwhile = compiler.compile(range_, OPTIONS, tensors)
    handle.remove()
    assert torch.equal(output(meanwhile, probes.at(range_)), wanted)


def test_tails_that_are_compiled_while_the_modules_run_are_right(tmp_path: Path) -> None:
    """Replaced segments are exchanged in the modules for the time of a call; no copy may fall into that."""
    backbone = random_backbone("test_resnet")
    compiler, probes = EagerCompiler(backbone, "fp32"), Probes(backbone)
    adapter = lora_member(tmp_path, backbone, segments=(-2,)).adapter
    range_ = SegmentRange(adapter.fork, len(backbone.segments), backbone.preprocessing)
    with as_is():
        tensors = adapter.merged(backbone.model)
    wanted = output(compiler.compile(range_, OPTIONS, tensors), probes.at(range_))
    segment, done = compiler.backbone.segments[-1], threading.Event()
    other = {name: 2 * t for name, t in backbone.model.state_dict().items() if segment.owns_tensor(name)}
    x = probes.at(SegmentRange(len(backbone.segments) - 1, len(backbone.segments), backbone.preprocessing))

    def replacing() -> None:
        with torch.inference_mode():
            while not done.is_set():
                segment.run_replaced(other, x)

    thread = threading.Thread(target=replacing)
    thread.start()
    made = [compiler.compile(range_, OPTIONS, tensors) for _ in range(30)]
    done.set()
    thread.join()
    assert all(torch.equal(output(unit, probes.at(range_)), wanted) for unit in made)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_a_tail_weighs_what_is_its_own(precision: str, size: int) -> None:
    backbone = random_backbone("test_vit")
    assert isinstance(backbone.model.get_submodule("norm"), nn.LayerNorm)
    tensors = {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    count = len(backbone.segments)
    unit = EagerCompiler(backbone, precision).compile(
        SegmentRange(count - 1, count, backbone.preprocessing), OPTIONS, tensors
    )
    assert unit.size_bytes == 128 * size
