"""Small real backbones and adapters with random weights, made by PEFT itself where LoRA is involved."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file
from torch import Tensor, nn

from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model, wrap
from lensmount_adapters.golden import Golden
from lensmount_adapters.heads import HeadSpec, build_head, run_head
from lensmount_adapters.manifest import BackboneRef, Edit, Manifest, Provenance
from lensmount_adapters.package import PREFIX, read_package, write_package
from lensmount_adapters.pictures import Pixels

# The smallest models of the families that timm has no test model for.
SMALL: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 3, 2)},
}


def random_backbone(name: str = "test_vit", seed: int = 0) -> Backbone:
    """A timm model, small where it can be, with seeded weights under which every module matters to the features."""
    torch.manual_seed(seed)
    model = create_model(name, **SMALL.get(name, {}))
    enliven(model)
    return wrap(model, name)


def enliven(model: nn.Module) -> None:
    """Draw all weights anew: timm starts some branches at zero or nearly so, and an edit there would not show.

    BatchNorm then takes the statistics of some pictures, so that the signal neither fades nor explodes.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        else:
            nn.init.uniform_(parameter, 0.5, 1.0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        _calibrate(model, norms)


def _calibrate(model: Any, norms: Sequence[nn.BatchNorm2d]) -> None:
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    side = model.default_cfg["input_size"][1] if model.default_cfg.get("fixed_input_size") else 64
    shots = pictures(4, seed=99, size=(side, side))
    with torch.inference_mode():
        model.train().forward_features(torch.from_numpy(np.stack(shots)).permute(0, 3, 1, 2) / 127.5 - 1)
    for norm in norms:
        norm.momentum = momentum
    model.eval()


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (90, 120)) -> tuple[Pixels, ...]:
    """Pictures of (height, width) `size`: squares in random colours of a range that is each picture's own."""
    random = np.random.default_rng(seed)
    shape = (-(-size[0] // 10), -(-size[1] // 10), 3)
    shots = []
    for _ in range(count):
        low, high = np.sort(random.integers(0, 256, (2, 3)), axis=0)
        coarse = random.integers(low, high + 1, shape).astype(np.uint8)
        shots.append(np.ascontiguousarray(coarse.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]))
    return tuple(shots)


def stacked(backbone: Backbone, shots: Sequence[Pixels]) -> Tensor:
    """The uint8 rows that the engine takes: (pictures, 3, height, width)."""
    return torch.stack([backbone.preprocessing.prepare(shot) for shot in shots])


def prepared(backbone: Backbone, shots: Sequence[Pixels]) -> Tensor:
    """Normalised float32 rows, as the backbone expects them."""
    return backbone.preprocessing.normalize(stacked(backbone, shots))


def manifest(backbone: Backbone, task: str, labels: int, edits: Sequence[Edit] = (), **changes: Any) -> Manifest:
    """A manifest that fits the backbone; `changes` are its fields."""
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
    model: nn.Module = full.eval()
    return model


def lora_targets(backbone: Backbone, segments: Sequence[int]) -> list[str]:
    """The modules of these segments that LoRA can edit: all but grouped convolutions."""
    modules = {name: m for index in segments for name, m in backbone.segments[index].editable_modules().items()}
    return [name for name, module in modules.items() if getattr(module, "groups", 1) == 1]


def lora_package(
    folder: Path,
    backbone: Backbone,
    *,
    task: str = "defect",
    labels: int = 3,
    segments: Sequence[int] = (-2,),
    rank: int = 4,
    seed: int = 0,
    replaced: Sequence[int] = (),
    change: Callable[[nn.Module], object] = lambda _: None,
    **options: Any,
) -> nn.Module:
    """Write `folder`/package, whose LoRA PEFT made with `options`; returns PEFT's own merged model, the oracle.

    The segments `replaced` get other tensors beside; `change` is what becomes of PEFT's model before it is saved.
    """
    targets = lora_targets(backbone, segments)
    saved = [backbone.classifier]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=saved, **options)
    peft = get_peft_model(merged_model(backbone, labels, seed), config).eval()
    _shake(peft, backbone, seed)
    change(peft)
    with warnings.catch_warnings():
        # PEFT takes lora_B's bias for a damaged matrix.
        warnings.filterwarnings("ignore", "Adapter 'default': .* invalid shape", PeftWarning)
        peft.save_pretrained(folder / "peft")
    oracle: nn.Module = peft.merge_and_unload().eval()
    tensors = _replace(oracle, backbone, replaced, seed)
    edited = sorted(with_biases(backbone)) if options.get("bias") == "all" else segments
    whole = [backbone.segments[i].name for i in replaced]
    edits = [Edit(segment=backbone.segments[i].name, kind="lora") for i in edited]
    edits = [edit for edit in edits if edit.segment not in whole] + [Edit(segment=s, kind="replace") for s in whole]
    _write_lora(folder, backbone, oracle, manifest(backbone, task, labels, edits), tensors)
    return oracle


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
        logits = run_head(module, backbone, features, backbone.pool(features)).clone()
    tensors = {f"{backbone.classifier}.{name}": tensor for name, tensor in module.state_dict().items()}
    write_package(folder, manifest(backbone, task, labels, head=spec), tensors, Golden(shots, logits), f"# {task}\n")
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
    own = _replace(full, backbone, segments, seed)
    head = {name: t for name, t in full.state_dict().items() if name.startswith(f"{backbone.classifier}.")}
    edits = [Edit(segment=backbone.segments[i].name, kind="replace") for i in segments]
    golden = _golden(backbone, full, seed)
    write_package(folder, manifest(backbone, task, labels, edits), {**own, **head}, golden, f"# {task}\n")
    return full


def fitted(folder: Path, backbone: Backbone) -> Adapter:
    """Read a package folder and put it on the backbone."""
    return fit(read_package(folder), backbone)


def queries_and_values_only(peft: nn.Module) -> None:
    """Leave the keys of a fused `qkv` as they are, and give queries and values each half of the rank."""
    for name, parameter in peft.named_parameters():
        if "qkv.lora_B" in name:
            out, half = parameter.shape[0] // 3, parameter.shape[1] // 2
            parameter.data[out : 2 * out] = 0
            parameter.data[:out, half:] = 0
            parameter.data[2 * out :, :half] = 0


def with_biases(backbone: Backbone) -> set[int]:
    """The segments that own a bias."""
    owners = {backbone.segment_of(name) for name in backbone.model.state_dict() if name.endswith(".bias")}
    return {owner for owner in owners if owner is not None}


def _shake(peft: nn.Module, backbone: Backbone, seed: int) -> None:
    """PEFT starts B at zero; give all that is trained values that matter, DoRA's lengths and biases beside their own.

    A bias of no segment, behind the pooling, is left alone: no adapter can have it.
    """
    random = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_magnitude" in name:
            parameter.data *= 0.5 + torch.rand(parameter.shape, generator=random)
        elif "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
        elif parameter.requires_grad and backbone.segment_of(name.removeprefix(PREFIX)) is not None:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=random)


def _golden(backbone: Backbone, oracle: nn.Module, seed: int) -> Golden:
    shots = pictures(2, seed)
    with torch.inference_mode():
        return Golden(shots, oracle(prepared(backbone, shots)).clone())


def _replace(model: nn.Module, backbone: Backbone, segments: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Change the tensors of these segments in the model; returns them by name."""
    random = torch.Generator().manual_seed(seed)
    edited = [backbone.segments[i] for i in segments]
    own = {name: t for name, t in model.state_dict().items() if any(segment.owns_tensor(name) for segment in edited)}
    for tensor in own.values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.3 * torch.rand(tensor.shape, generator=random))
    return own


def _write_lora(
    folder: Path, backbone: Backbone, oracle: nn.Module, described: Manifest, replaced: dict[str, Tensor]
) -> None:
    """Add to what PEFT saved what a package has beyond it."""
    saved = load_file(folder / "peft" / "adapter_model.safetensors")
    tensors = {**{name.removeprefix(PREFIX): tensor for name, tensor in saved.items()}, **replaced}
    config = json.loads((folder / "peft" / "adapter_config.json").read_text())
    golden = _golden(backbone, oracle, len(described.labels))
    write_package(folder / "package", described, tensors, golden, f"# {described.task}\n", lora=config)
