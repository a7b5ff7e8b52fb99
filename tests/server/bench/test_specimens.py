"""Specimens are adapters like any other: rivals, and servers that read them from the disk, say the same of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines import distance, serve
from factories import fitted, random_backbone
from lensmount_server.bench import rivals, specimens
from lensmount_server.bench.bare import CompiledBare, EagerBare
from lensmount_server.bench.packages import Writer, shots
from lensmount_server.engine.cpu.compilers import make_compiler
from lensmount_server.engine.cpu.executor import CpuExecutor
from lensmount_server.engine.cpu.units import Options
from lensmount_server.engine.reference import ReferenceExecutor

TOLERANCE = 1e-4
FAR = 1e-2


def test_peft_computes_what_the_engine_computes() -> None:
    """Otherwise the bench would compare two different things."""
    backbone = random_backbone("test_vit")
    adapters = [specimens.lora_adapter(backbone, (-4, -3, -2), 4, seed) for seed in range(2)]
    pictures = specimens.pictures(backbone, 3)
    ours = serve(ReferenceExecutor(backbone), [(frame, a) for frame in range(3) for a in adapters], pictures)
    peft = rivals.Peft(backbone, adapters, torch.float32)
    x = backbone.preprocessing.normalize(pictures)
    for theirs in (peft.mixed(x), peft.one_by_one(x)):
        for adapter, logits in zip(adapters, theirs, strict=True):
            expected = torch.stack([ours[frame, adapter.content_hash] for frame in range(3)])
            assert distance(logits, expected) < TOLERANCE
        assert distance(theirs[0], theirs[1]) > FAR


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_merged_models_and_timm_compute_it_too(name: str) -> None:
    backbone = random_backbone(name)
    adapters = [specimens.lora_adapter(backbone, (-3, -2), 4, seed) for seed in range(2)]
    pictures = specimens.pictures(backbone, 2)
    ours = serve(ReferenceExecutor(backbone), [(frame, a) for frame in range(2) for a in adapters], pictures)
    executor = CpuExecutor(backbone, make_compiler(backbone, "torch", "fp32", 1), Options(), 0)
    bares = (CompiledBare(executor, pictures), EagerBare(backbone, pictures, torch.float32))
    for bare in bares:
        for adapter, logits in zip(adapters, bare.merged(adapters), strict=True):
            expected = torch.stack([ours[frame, adapter.content_hash] for frame in range(2)])
            assert distance(logits, expected) < TOLERANCE
        bare.close()
    head = specimens.head_adapter(backbone, 5)
    expected = torch.stack(list(serve(ReferenceExecutor(backbone), [(0, head), (1, head)], pictures).values()))
    forms = rivals.timm_forms(backbone, head.head, pictures)
    assert distance(bares[1].base(head), expected) < TOLERANCE
    assert {name: distance(_tensor(run()), expected) < TOLERANCE for name, run in forms.items() if "fp32" in name} == {
        "fp32": True,
        "fp32 channels-last": True,
    }
    executor.close()


def _tensor(made: object) -> torch.Tensor:
    assert isinstance(made, torch.Tensor)
    return made


def test_a_package_on_disk_is_the_adapter_that_was_written(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    pictures = shots(backbone, 2)
    adapter = specimens.lora_adapter(backbone, (-3, -2), 4, seed=1)
    specimen = Writer(backbone, pictures).write(tmp_path / "package", adapter, "defect")
    read = fitted(tmp_path / "package", backbone)
    rows = torch.stack([backbone.preprocessing.prepare(pixels) for pixels in pictures])
    answers = serve(ReferenceExecutor(backbone), [(0, read), (1, read)], rows)
    assert read.content_hash == specimen.content_hash
    assert distance(torch.stack(list(answers.values())), specimen.expected) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "first"),
    [("resnet50", "layer4.0"), ("efficientnet_b0", "blocks.6.0"), ("test_resnet", "layer4.0")],
)
def test_the_last_stage_of_a_convolutional_network(name: str, first: str) -> None:
    backbone = random_backbone(name)
    stage = specimens.last_stage(backbone)
    assert backbone.segments[stage[0]].name == first
    assert stage == list(range(stage[0], len(backbone.segments)))
