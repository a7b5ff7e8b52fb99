"""Small real backbones and adapters with random weights, made by PEFT itself where LoRA is involved."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model, wrap
from lensmount_adapters.golden import Golden
from lensmount_adapters.heads import HeadSpec, build_head
from lensmount_adapters.manifest import BackboneRef, Edit, Manifest, Provenance
from lensmount_adapters.package import PREFIX, write_package
from lensmount_adapters.pictures import Pixels


def random_backbone(name: str = "test_vit", seed: int = 0) -> Backbone:
    """A timm model with seeded random weights and uneven BatchNorm statistics."""
    torch.manual_seed(seed)
    model = create_model(name)
    for module in model.modules():
        if isinstance(module, BatchNormAct2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return wrap(model, name)


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (90, 120)) -> tuple[Pixels, ...]:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    return tuple(np.ascontiguousarray(picture.repeat(10, 0).repeat(10, 1)) for picture in coarse)


def prepared(backbone: Backbone, shots: Sequence[Pixels]) -> Tensor:
    """Normalised float32 rows, as the backbone expects them."""
    preprocessing = backbone.preprocessing
    return preprocessing.normalize(torch.stack([preprocessing.prepare(shot) for shot in shots]))


def manifest(backbone: Backbone, task: str, labels: int, edits: Sequence[Edit] = (), **changes: Any) -> Manifest:
    names = [segment.name for segment in backbone.segments]
    fork = min((names.index(edit.segment) for edit in edits), default=len(names))
    values: dict[str, Any] = {
        "task": task,
        "labels": [f"{task}-{i}" for i in range(labels)],
        "head": HeadSpec(),
        "strategy": "test",
        "edits": list(edits),
        "fork": fork,
        "backbone": BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        "preprocessing": backbone.preprocessing,
        "provenance": Provenance(data_hash="0" * 64, seed=0, created="2026-01-01T00:00:00Z"),
    }
    return Manifest(**{**values, **changes})


def merged_model(backbone: Backbone, labels: int, seed: int) -> nn.Module:
    """The backbone's timm model with a classifier, its weights copied: what PEFT starts from."""
    torch.manual_seed(seed)
    full: Any = copy.deepcopy(backbone.model)
    full.reset_classifier(labels)
    return full.eval()


def lora_package(  # noqa: PLR0913
    folder: Path,
    backbone: Backbone,
    *,
    task: str = "defect",
    labels: int = 3,
    segments: Sequence[int] = (-2,),
    rank: int = 4,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Write a package whose LoRA PEFT made; returns PEFT's own merged model, the oracle."""
    edited = [backbone.segments[i] for i in segments]
    targets = [name for s in edited for name, m in s.editable_modules().items() if getattr(m, "groups", 1) == 1]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=[backbone.classifier], **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = get_peft_model(merged_model(backbone, labels, seed), config).eval()
    _shake(peft, seed)
    peft.save_pretrained(folder / "peft")
    return _finish(folder, backbone, peft.merge_and_unload().eval(), task, labels, [s.name for s in edited])


def head_package(
    folder: Path,
    backbone: Backbone,
    *,
    task: str = "scene",
    labels: int = 3,
    seed: int = 0,
    head: HeadSpec | None = None,
) -> nn.Module:
    """Write a package that only adds a head; returns the head."""
    torch.manual_seed(seed)
    spec = head or HeadSpec()
    module = build_head(spec, backbone, labels).eval()
    shots = pictures(2, seed)
    with torch.inference_mode():
        features = backbone.forward_features(prepared(backbone, shots))
        seen = backbone.tokens(features) if spec.kind == "attention" else backbone.pool(features)
        logits = module(seen)
    tensors = {f"{backbone.classifier}.{name}": tensor for name, tensor in module.state_dict().items()}
    write_package(
        folder, manifest(backbone, task, labels, head=spec), tensors, Golden(shots, logits.clone()), f"# {task}\n"
    )
    return module


def replaced_package(
    folder: Path,
    backbone: Backbone,
    *,
    task: str = "grade",
    labels: int = 3,
    segments: Sequence[int] = (-2,),
    seed: int = 0,
) -> nn.Module:
    """Write a package that replaces whole segments, statistics included; returns the full model, the oracle."""
    full = merged_model(backbone, labels, seed)
    random = torch.Generator().manual_seed(seed)
    edited = [backbone.segments[i] for i in segments]
    state = full.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and any(segment.owns_tensor(name) for segment in edited):
            tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=random))
    tensors = {
        name: tensor.clone()
        for name, tensor in state.items()
        if name.startswith(f"{backbone.classifier}.") or any(segment.owns_tensor(name) for segment in edited)
    }
    shots = pictures(2, seed)
    with torch.inference_mode():
        logits = full(prepared(backbone, shots)).clone()
    edits = [Edit(segment=segment.name, kind="replace") for segment in edited]
    write_package(folder, manifest(backbone, task, labels, edits), tensors, Golden(shots, logits), f"# {task}\n")
    return full


def _shake(peft: nn.Module, seed: int) -> None:
    """PEFT starts B at zero; give every LoRA tensor and the head values that matter."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.1


def _finish(
    folder: Path, backbone: Backbone, oracle: nn.Module, task: str, labels: int, segments: Sequence[str]
) -> nn.Module:
    shots = pictures(2, seed=labels)
    with torch.inference_mode():
        logits = oracle(prepared(backbone, shots)).clone()
    saved = load_file(folder / "peft" / "adapter_model.safetensors")
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in saved.items()}
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    edits = [Edit(segment=name, kind="lora") for name in segments]
    target = folder / "package"
    write_package(
        target, manifest(backbone, task, labels, edits), tensors, Golden(shots, logits), f"# {task}\n", lora=config
    )
    return oracle
