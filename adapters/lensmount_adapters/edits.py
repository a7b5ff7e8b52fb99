"""From the LoRA tensors of a package to edits of segments.

A segment stays low-rank while its edits are A, B and a bias for modules that LoRA edits. What goes beyond that (DoRA,
trained biases of other modules) can not be added to a module's output: all edits of that segment are merged then, and
the tensors that they change stand in place of the backbone's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.dora import with_lengths
from lensmount_adapters.lora import LoraConfig, LoraDelta, check_delta, merged
from lensmount_adapters.package import TENSOR_FILE
from lensmount_adapters.taking import FIX_TENSORS, take, take_if


@dataclass(frozen=True, eq=False)
class LoraEdits:
    """By segment index: the low-rank edits of its modules, or the tensors that stand in place of its own."""

    low_rank: Mapping[int, Mapping[str, LoraDelta]]
    merged: Mapping[int, Mapping[str, Tensor]]


def take_lora(config: LoraConfig, backbone: Backbone, indices: Sequence[int], tensors: dict[str, Tensor]) -> LoraEdits:
    """Take the edits of these segments out of `tensors`.

    Raises InvalidInputError for a tensor that does not fit the backbone or PEFT's settings.
    """
    low_rank: dict[int, dict[str, LoraDelta]] = {}
    whole: dict[int, dict[str, Tensor]] = {}
    for index in indices:
        segment = backbone.segments[index]
        names = [name for name in segment.editable_modules() if f"{name}.lora_A.weight" in tensors]
        deltas = {name: _take_delta(name, config, backbone, tensors) for name in names}
        taken = {name: _take_lengths(name, config, backbone, tensors) for name in names}
        lengths = {name: own for name, own in taken.items() if own is not None}
        biases = _take_biases(segment, names, backbone, tensors) if config.bias == "all" else {}
        if not deltas and not biases:
            message = "no LoRA tensor for this segment"
            raise InvalidInputError(message, field=TENSOR_FILE, value=segment.name, fix=FIX_TENSORS)
        if lengths or biases:
            whole[index] = {**_with_dora(merged(backbone.model, deltas), lengths), **biases}
        else:
            low_rank[index] = deltas
    return LoraEdits(low_rank, whole)


def drop_unchanged(backbone: Backbone, head: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Take out of `tensors` what PEFT writes with bias="all" beside the edits.

    That is every bias of the model, trained or not; the head's once more under the name of PEFT's wrapper, and the
    one that the head replaced, which never runs. Raises InvalidInputError for a bias that is an edit after all.
    """
    own = {name: tensor for name, tensor in backbone.model.state_dict().items() if name.endswith(".bias")}
    for name in (name for name in head if f".{name}".endswith(".bias")):
        own[f"{backbone.classifier}.modules_to_save.{name}"] = head[name]
        tensors.pop(f"{backbone.classifier}.original_module.{name}", None)
    for name in sorted(own.keys() & tensors.keys()):
        if not torch.equal(tensors.pop(name).to(own[name].device), own[name]):
            message = "a bias in no segment that task.json edits must be the backbone's own"
            fix = 'name its segment in the edits of task.json, or train with bias="lora_only"'
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=fix)


def _take_delta(name: str, config: LoraConfig, backbone: Backbone, tensors: dict[str, Tensor]) -> LoraDelta:
    if f"{name}.lora_B.weight" not in tensors:
        raise InvalidInputError("A without B", field=f"{TENSOR_FILE}: {name}.lora_B.weight", fix=FIX_TENSORS)
    a, b = tensors.pop(f"{name}.lora_A.weight"), tensors.pop(f"{name}.lora_B.weight")
    delta = LoraDelta(a, b, config.scale(name))
    check_delta(f"{TENSOR_FILE}: {name}", backbone.model.get_submodule(name), delta, config.rank(name))
    bias = _take_bias(name, config, backbone, tensors)
    return LoraDelta(a.to(backbone.device), b.to(backbone.device), delta.scale, bias)


def _take_bias(name: str, config: LoraConfig, backbone: Backbone, tensors: dict[str, Tensor]) -> Tensor | None:
    """What is added to the output: lora_B's bias with its scale, and what training added to the module's own bias."""
    module: Any = backbone.model.get_submodule(name)
    own: Tensor | None = None if module.bias is None else module.bias.detach()
    of_b, of_module = f"{name}.lora_B.bias", f"{name}.base_layer.bias"
    for key in (of_b, of_module):
        if own is None and key in tensors:
            message, fix = "the module has no bias to merge it into", 'train with bias="none", lora_bias=False'
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {key}", fix=fix)
    shape = module.weight.shape[:1]
    added = take_if(tensors, of_b, shape, f"lora_bias={config.lora_bias}", wanted=config.lora_bias)
    trains = config.bias != "none" and own is not None
    trained = take_if(tensors, of_module, shape, f"bias={config.bias}", wanted=trains)
    parts = [] if added is None else [added.to(backbone.device) * config.scale(name)]
    if trained is not None and own is not None:
        parts.append(trained.to(backbone.device) - own)
    return torch.stack(parts).sum(0) if parts else None


def _take_lengths(name: str, config: LoraConfig, backbone: Backbone, tensors: dict[str, Tensor]) -> Tensor | None:
    """DoRA's length (out,) of each row of the module's weight; PEFT has them as (1, out, 1, 1) for a Conv2d."""
    module: Any = backbone.model.get_submodule(name)
    key = f"{name}.lora_magnitude_vector"
    if key not in tensors and f"{key}.weight" in tensors:  # as PEFT names it while it runs
        key = f"{key}.weight"
    out = module.weight.shape[0]
    shape = (1, out, 1, 1) if isinstance(module, nn.Conv2d) else (out,)
    lengths = take_if(tensors, key, shape, f"use_dora={config.use_dora}", wanted=config.use_dora)
    return None if lengths is None else lengths.flatten().to(backbone.device)


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


def _take_biases(
    segment: Segment, edited: Sequence[str], backbone: Backbone, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The biases of the segment's modules that have no A and B, by name."""
    return {
        name: take(tensors, name, own, backbone.device)
        for name, own in backbone.model.state_dict().items()
        if segment.owns_tensor(name) and name.endswith(".bias") and name.removesuffix(".bias") not in edited
    }
