"""From the LoRA tensors of a package to edits of segments.

A segment stays low-rank while its edits are A, B and a bias for modules that LoRA edits. What goes beyond that (DoRA,
trained biases of other modules) can not be added to a module's output: all edits of that segment are merged then, and
the tensors that they change stand in place of the backbone's own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.dora import with_lengths
from lensmount_adapters.layout import FIX_TENSORS, Layout
from lensmount_adapters.lora import LoraConfig, LoraDelta, delta_shapes, merged
from lensmount_adapters.package import TENSOR_FILE

# Where PEFT keeps a trained head, below the classifier it stands for.
_WRAPPED = ".modules_to_save."


@dataclass(frozen=True, eq=False)
class LoraEdits:
    """By segment index: the low-rank edits of its modules, or the tensors that stand in place of its own."""

    low_rank: Mapping[int, Mapping[str, LoraDelta]]
    merged: Mapping[int, Mapping[str, Tensor]]


def claim_lora(config: LoraConfig, backbone: Backbone, indices: Sequence[int], layout: Layout) -> None:
    """Claim the names of the edits of these segments.

    Raises InvalidInputError for a name that is missing, or there against PEFT's settings.
    """
    model_biases = _biases(backbone) if config.bias == "all" else {}
    for index in indices:
        segment = backbone.segments[index]
        modules = _edited(segment, layout)
        for name in modules:
            _claim_module(name, config, backbone, layout)
        biases = _biases_beside(segment, modules, model_biases)
        if not modules and not biases:
            message = "no LoRA tensor for this segment"
            raise InvalidInputError(message, field=TENSOR_FILE, value=segment.name, fix=FIX_TENSORS)
        for name, own in biases.items():
            layout.claim(name, own)


def claim_unchanged(backbone: Backbone, head: nn.Module, layout: Layout) -> None:
    """Claim what PEFT writes with bias="all" beside the edits, as far as it is there.

    That is every bias of the model, trained or not; the head's once more under the name of PEFT's wrapper, and the
    one that the head replaced, which never runs.
    """
    for name, own in _biases(backbone).items():
        layout.claim_unchanged(name, own)
    for name, own in head.state_dict().items():
        if f".{name}".endswith(".bias"):
            layout.claim_unchanged(f"{backbone.classifier}{_WRAPPED}{name}", own)
            layout.claim_unused(f"{backbone.classifier}.original_module.{name}")


def check_unchanged(backbone: Backbone, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    """Raise InvalidInputError for a bias that belongs to no edit and is one after all."""
    biases = _biases(backbone) if layout.unchanged else {}
    for name in sorted(layout.unchanged):
        own = biases[name].cpu() if name in biases else tensors[name.replace(_WRAPPED, ".")]
        if not torch.equal(tensors[name], own):
            message = "a bias in no segment that task.json edits must be the backbone's own"
            fix = 'name its segment in the edits of task.json, or train with bias="lora_only"'
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=fix)


def take_lora(
    config: LoraConfig, backbone: Backbone, indices: Sequence[int], tensors: Mapping[str, Tensor]
) -> LoraEdits:
    """The edits of these segments, from tensors that were held against their layout.

    Raises InvalidInputError where DoRA makes NaN or infinity of the backbone's weights.
    """
    model_biases = _biases(backbone) if config.bias == "all" else {}
    low_rank: dict[int, dict[str, LoraDelta]] = {}
    whole: dict[int, dict[str, Tensor]] = {}
    for index in indices:
        segment = backbone.segments[index]
        modules = _edited(segment, tensors)
        deltas = {name: _delta(name, config, backbone, tensors) for name in modules}
        beside = _biases_beside(segment, modules, model_biases)
        biases = {name: tensors[name].to(backbone.device) for name in beside}
        if config.use_dora or biases:
            lengths = {name: _lengths(name, tensors, backbone) for name in modules if config.use_dora}
            whole[index] = {**_with_dora(merged(backbone.model, deltas), lengths), **biases}
        else:
            low_rank[index] = deltas
    return LoraEdits(low_rank, whole)


def _edited(segment: Segment, names: Container[str]) -> list[str]:
    """The modules of a segment for which there is an A."""
    return [name for name in segment.editable_modules() if f"{name}.lora_A.weight" in names]


def _claim_module(name: str, config: LoraConfig, backbone: Backbone, layout: Layout) -> None:
    module: Any = backbone.model.get_submodule(name)
    rank, out = config.rank(name), module.weight.shape[:1]
    layout.claim_pair(name, *delta_shapes(f"{TENSOR_FILE}: {name}", module, rank), rank)
    of_b, of_module = f"{name}.lora_B.bias", f"{name}.base_layer.bias"
    for key in (of_b, of_module):
        if module.bias is None and key in layout:
            message, fix = "the module has no bias to merge it into", 'train with bias="none", lora_bias=False'
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {key}", fix=fix)
    layout.claim_if(of_b, out, f"lora_bias={config.lora_bias}", wanted=config.lora_bias)
    trains = config.bias != "none" and module.bias is not None
    layout.claim_if(of_module, out, f"bias={config.bias}", wanted=trains)
    # PEFT has DoRA's lengths as (1, out, 1, 1) for a Conv2d.
    lengths = (1, *out, 1, 1) if isinstance(module, nn.Conv2d) else out
    layout.claim_if(_lengths_name(name, layout), lengths, f"use_dora={config.use_dora}", wanted=config.use_dora)


def _delta(name: str, config: LoraConfig, backbone: Backbone, tensors: Mapping[str, Tensor]) -> LoraDelta:
    a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
    bias = _bias(name, config, backbone, tensors)
    return LoraDelta(a.to(backbone.device), b.to(backbone.device), config.scale(name), bias)


def _bias(name: str, config: LoraConfig, backbone: Backbone, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """What is added to the output: lora_B's bias with its scale, and what training added to the module's own bias."""
    added, trained = tensors.get(f"{name}.lora_B.bias"), tensors.get(f"{name}.base_layer.bias")
    parts = [] if added is None else [added.to(backbone.device) * config.scale(name)]
    if trained is not None:
        parts.append(trained.to(backbone.device) - backbone.model.get_parameter(f"{name}.bias").detach())
    return torch.stack(parts).sum(0) if parts else None


def _lengths_name(module: str, names: Container[str]) -> str:
    name = f"{module}.lora_magnitude_vector"
    running = f"{name}.weight"  # as PEFT names it while it runs
    return running if name not in names and running in names else name


def _lengths(name: str, tensors: Mapping[str, Tensor], backbone: Backbone) -> Tensor:
    """DoRA's length (out,) of each row of the module's weight."""
    return tensors[_lengths_name(name, tensors)].flatten().to(backbone.device)


def _with_dora(tensors: dict[str, Tensor], lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merged weights and biases, the rows of each weight brought to its lengths."""
    for module, own in lengths.items():
        name = f"{module}.weight"
        tensors[name] = with_lengths(tensors[name], own)
        if not bool(torch.isfinite(tensors[name]).all()):
            message = "DoRA makes NaN or infinity of it: a row is zero"
            fix = f"train without {module} in target_modules"
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=fix)
    return tensors


def _biases(backbone: Backbone) -> dict[str, Tensor]:
    """All biases of the backbone, by name."""
    return {name: own for name, own in backbone.model.state_dict().items() if name.endswith(".bias")}


def _biases_beside(segment: Segment, edited: Sequence[str], biases: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The biases of the segment's modules that have no A and B."""
    return {
        name: own
        for name, own in biases.items()
        if segment.owns_tensor(name) and name.removesuffix(".bias") not in edited
    }
