"""From what was trained to what a package holds: low-rank edits where the format has them, else whole segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.dora import with_lengths
from lensmount_adapters.importing.peft_config import peft_config
from lensmount_adapters.importing.peft_file import TunedModule
from lensmount_adapters.importing.trained import Trained
from lensmount_adapters.lora import MAX_RANK, LoraDelta, delta_shapes, merged
from lensmount_adapters.manifest import Edit

FIX_HEAD = "train it with the classifier saved whole: modules_to_save=[…] of PEFT, or the whole checkpoint"


@dataclass(frozen=True, eq=False)
class Plan:
    """The edits, tensors (as a package names them) and PEFT's config of a package; `labels` is the head's rows."""

    edits: tuple[Edit, ...]
    tensors: Mapping[str, Tensor]
    lora: Mapping[str, object] | None
    labels: int


def plan(trained: Trained, backbone: Backbone) -> Plan:
    """Lay out the package of what was trained.

    A segment stays low-rank when A, B and the biases that PEFT trains beside them say all of it; otherwise it is
    replaced, its low-rank edits merged. Raises InvalidInputError for a tensor that does not fit the backbone or a
    classifier that is missing or not linear, IncompatibleError for a change outside of every segment.
    """
    head = linear_head(trained, backbone)
    changed = changes(trained, backbone)
    kinds = _kinds(trained, changed, backbone)
    tensors = {f"{backbone.classifier}.{name}": tensor for name, tensor in head.items()}
    low_rank: dict[str, TunedModule] = {}
    for index, kind in kinds.items():
        segment = backbone.segments[index]
        if kind == "replace":
            tensors.update(_replaced(segment, trained, changed, backbone))
        else:
            low_rank.update(_of(segment, trained))
            tensors.update(_low_rank(segment, trained, backbone))
    edits = tuple(Edit(segment=backbone.segments[i].name, kind=kind) for i, kind in sorted(kinds.items()))
    lora = None
    if any(edit.kind == "lora" for edit in edits):
        lora = peft_config(low_rank, trained, backbone.classifier, dict(backbone.model.named_modules()))
    return Plan(edits, tensors, lora, len(head["weight"]))


def linear_head(trained: Trained, backbone: Backbone) -> dict[str, Tensor]:
    """The classifier's weight (labels, features) and bias (labels,); raises InvalidInputError."""
    prefix = f"{backbone.classifier}."
    found = {name.removeprefix(prefix): own for name, own in trained.tensors.items() if name.startswith(prefix)}
    if "weight" not in found:
        raise InvalidInputError("the classifier is missing", field=f"{prefix}weight", fix=FIX_HEAD)
    weight = found["weight"]
    bias = found.get("bias", weight.new_zeros(len(weight)))
    shapes = f"{tuple(weight.shape)}, {tuple(bias.shape)}"
    if weight.ndim != 2 or weight.shape[1] != backbone.features or bias.shape != weight.shape[:1] or len(found) > 2:
        message = f"a linear classifier of {backbone.features} features expected"
        fix = f"import it for the backbone that it was trained on; {backbone.name} does not fit"
        raise InvalidInputError(message, field=f"{prefix}weight", value=shapes, fix=fix)
    return {"weight": weight, "bias": bias}


def changes(trained: Trained, backbone: Backbone) -> dict[str, Tensor]:
    """The whole tensors that differ from the backbone's, to the bit; counters aside, which nothing reads.

    Raises InvalidInputError for one that the backbone does not have, or of another shape.
    """
    own: dict[str, Tensor] = backbone.model.state_dict()
    changed: dict[str, Tensor] = {}
    for name, tensor in trained.tensors.items():
        if name.startswith(f"{backbone.classifier}."):
            continue
        if name not in own or own[name].shape != tensor.shape:
            wanted = f"{tuple(own[name].shape)} expected" if name in own else f"{backbone.name} has no such tensor"
            fix = "give the --backbone that it was trained on"
            raise InvalidInputError(wanted, field=name, value=tuple(tensor.shape), fix=fix)
        if tensor.is_floating_point() and not torch.equal(tensor, own[name].cpu()):
            changed[name] = tensor
    return changed


def check_fits(trained: Trained, backbone: Backbone) -> None:
    """Raise InvalidInputError for a tensor that the backbone has no place for; nothing is computed."""
    changes(trained, backbone)
    for name, own in trained.modules.items():
        module = _module(backbone, name)
        delta = _delta(own)
        for side, half, shape in zip("AB", (delta.a, delta.b), delta_shapes(name, module, own.rank), strict=True):
            if tuple(half.shape) != shape:
                message, fix = f"shape {shape} expected", "give the --backbone that it was trained on"
                field = f"{name}.lora_{side}.weight"
                raise InvalidInputError(message, field=field, value=tuple(half.shape), fix=fix)
        for field, tensor in (("lora_B.bias", own.b_bias), ("lora_magnitude_vector", own.lengths)):
            if tensor is not None and tensor.numel() != len(module.weight):
                message, fix = f"{len(module.weight)} numbers expected", "save it again with PEFT"
                raise InvalidInputError(message, field=f"{name}.{field}", value=tuple(tensor.shape), fix=fix)


def merged_weights(modules: Mapping[str, TunedModule], backbone: Backbone) -> dict[str, Tensor]:
    """The weights and biases of the backbone that these modules change, with the change in them."""
    tensors = merged(backbone.model, {name: _delta(own) for name, own in modules.items()})
    for name, own in modules.items():
        if own.lengths is not None:
            tensors[f"{name}.weight"] = with_lengths(tensors[f"{name}.weight"], own.lengths.flatten())
    return tensors


def _kinds(trained: Trained, changed: Mapping[str, Tensor], backbone: Backbone) -> dict[int, Any]:
    """Lora or replace, by the index of every segment that is edited."""
    kinds: dict[int, str] = {}
    for name, module in trained.modules.items():
        index = _owner(name, backbone)
        kinds[index] = "replace" if module.rank > MAX_RANK else kinds.get(index, "lora")
    for name in changed:
        index = _owner(name, backbone)
        module_name, _, what = name.rpartition(".")
        carried = what == "bias" and (
            trained.bias == "all" or (trained.bias != "none" and module_name in trained.modules)
        )
        kinds[index] = kinds.get(index, "lora") if carried else "replace"
    return kinds


def _owner(name: str, backbone: Backbone) -> int:
    index = backbone.segment_of(name)
    if index is None:
        message = "it is in no segment of the backbone, so no adapter can change it"
        fix = "train with this part frozen"
        raise IncompatibleError(message, field="source", value=name, fix=fix)
    return index


def _of(segment: Segment, trained: Trained) -> dict[str, TunedModule]:
    return {name: own for name, own in trained.modules.items() if segment.owns_tensor(name)}


def _low_rank(segment: Segment, trained: Trained, backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of a segment as PEFT names them."""
    tensors: dict[str, Tensor] = {}
    own = backbone.model.state_dict()
    for name, module in _of(segment, trained).items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = module.a, module.b
        if module.b_bias is not None:
            tensors[f"{name}.lora_B.bias"] = module.b_bias
        if module.lengths is not None:
            tensors[f"{name}.lora_magnitude_vector"] = module.lengths
        bias = f"{name}.bias"
        if trained.bias != "none" and bias in own:
            tensors[f"{name}.base_layer.bias"] = trained.tensors.get(bias, own[bias].cpu())
    if trained.bias == "all":
        others = [name for name in own if name.endswith(".bias") and name.removesuffix(".bias") not in trained.modules]
        for name in others:
            if segment.owns_tensor(name):
                tensors[name] = trained.tensors.get(name, own[name].cpu())
    return tensors


def _replaced(
    segment: Segment, trained: Trained, changed: Mapping[str, Tensor], backbone: Backbone
) -> dict[str, Tensor]:
    own = {name: t.cpu() for name, t in backbone.model.state_dict().items() if segment.owns_tensor(name)}
    tensors = {name: changed.get(name, tensor) for name, tensor in own.items()}
    for name, tensor in merged_weights(_of(segment, trained), backbone).items():
        # A bias may have been trained and moved by lora_B's besides.
        tensors[name] = tensor.cpu() if tensors[name] is own[name] else tensors[name] + (tensor.cpu() - own[name])
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _delta(own: TunedModule) -> LoraDelta:
    return LoraDelta(own.a, own.b, own.scale, None if own.b_bias is None else own.b_bias * own.scale)


def _module(backbone: Backbone, name: str) -> Any:
    try:
        return backbone.model.get_submodule(name)
    except AttributeError as error:
        fix = "give the --backbone that it was trained on"
        raise InvalidInputError(f"{backbone.name} has no such module", field="source", value=name, fix=fix) from error
