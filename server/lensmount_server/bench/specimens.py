"""Adapters with random weights, of the size and shape of trained ones; speed does not depend on values."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import timm
import torch
from torch import Tensor, nn

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model, wrap
from lensmount_adapters.backbones.weights import find_weights, load_backbone
from lensmount_adapters.heads import HeadSpec, build_head
from lensmount_adapters.lora import LoraDelta
from lensmount_adapters.manifest import BackboneRef, Edit, Manifest, Provenance

LABELS = 10
SCALE = 0.05


def backbone_of(name: str) -> Backbone:
    """The backbone with its pretrained weights where they are on this machine, else with timm's initial ones."""
    if find_weights(name) is not None:
        return load_backbone(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(create_model(name), name)


def lora_adapter(backbone: Backbone, segments: Sequence[int], rank: int, seed: int) -> Adapter:
    """LoRA of `rank` on every Linear and ungrouped Conv2d of the segments (-1: the last), and a linear head."""
    random = torch.Generator().manual_seed(seed)
    indices = sorted(index % len(backbone.segments) for index in segments)
    lora = {index: _deltas(backbone.segments[index].editable_modules(), rank, random) for index in indices}
    lora = {index: deltas for index, deltas in lora.items() if deltas}
    edits = [Edit(segment=backbone.segments[index].name, kind="lora") for index in lora]
    return _adapter(backbone, f"task-{seed}", edits, min(lora), lora, random)


def head_adapter(backbone: Backbone, seed: int) -> Adapter:
    """A linear head and nothing else."""
    return _adapter(backbone, f"head-{seed}", [], len(backbone.segments), {}, torch.Generator().manual_seed(seed))


def pictures(backbone: Backbone, count: int) -> Tensor:
    """Random uint8 pictures (count, 3, height, width)."""
    shape = (count, 3, backbone.preprocessing.height, backbone.preprocessing.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def last_stage(backbone: Backbone) -> list[int]:
    """The segments of a convolutional network's last stage: from the first one of its last group of blocks."""
    names = [segment.name for segment in backbone.segments]
    stages = [name.rpartition(".")[0] for name in names]
    last = max(filter(None, stages), key=stages.index)
    return [index for index, stage in enumerate(stages) if stage == last or index > stages.index(last)]


def _deltas(modules: dict[str, nn.Module], rank: int, random: torch.Generator) -> dict[str, LoraDelta]:
    deltas = {}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            a: tuple[int, ...] = (rank, module.in_channels, *module.kernel_size)
            b: tuple[int, ...] = (module.out_channels, rank, 1, 1)
        elif isinstance(module, nn.Linear):
            a, b = (rank, module.in_features), (module.out_features, rank)
        else:
            continue
        deltas[name] = LoraDelta(_random(a, random), _random(b, random), 1.0)
    return deltas


def _adapter(
    backbone: Backbone,
    task: str,
    edits: list[Edit],
    fork: int,
    lora: dict[int, dict[str, LoraDelta]],
    random: torch.Generator,
) -> Adapter:
    manifest = Manifest(
        task=task,
        labels=[f"label {number}" for number in range(LABELS)],
        head=HeadSpec(),
        strategy="random",
        edits=edits,
        fork=fork,
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        preprocessing=backbone.preprocessing,
        provenance=Provenance(
            data_hash="", seed=0, created=datetime.now(UTC).isoformat(), versions={"timm": timm.__version__}
        ),
    )
    head = build_head(HeadSpec(), backbone, LABELS).eval().requires_grad_(requires_grad=False)
    for parameter in head.parameters():
        parameter.copy_(_random(tuple(parameter.shape), random))
    content_hash = hashlib.sha256(task.encode()).hexdigest()
    return Adapter(manifest, content_hash, fork, lora, {}, head).to(backbone.device)


def _random(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random) * SCALE
