"""What was trained, by timm's names: the one form that every source is brought into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.names import in_timm, state_in_timm
from lensmount_adapters.importing.peft_file import PeftFile, TunedModule
from lensmount_adapters.lora import LoraDelta
from lensmount_adapters.package import TENSOR_FILE
from lensmount_adapters.qkv import PARTS, fused_qkv


@dataclass(frozen=True, eq=False)
class Trained:
    """Modules with A and B, and whole tensors that stand in place of the backbone's, the classifier's among them.

    `bias` says which biases PEFT trained beside; `dora` and `lora_bias` are true of all modules or of none.
    """

    modules: Mapping[str, TunedModule]
    tensors: Mapping[str, Tensor]
    bias: Literal["none", "lora_only", "all"] = "none"
    dora: bool = False
    lora_bias: bool = False


def trained_on_timm(peft: PeftFile) -> Trained:
    """An adapter that was trained on a timm model; its names are timm's already."""
    config = peft.config
    return Trained(peft.modules, peft.tensors, config.bias, config.use_dora, config.lora_bias)


def trained_on_vit(peft: PeftFile, backbone: Backbone) -> Trained:
    """An adapter that was trained on a ViT of Hugging Face's, for timm's ViT with the same weights.

    Edits of queries, keys and values become one of the fused `qkv`, exactly: see `lensmount_adapters.qkv`.
    Raises InvalidInputError for a module that timm's ViT lacks or that does not fit it.
    """
    config = peft.config
    modules: dict[str, TunedModule] = {}
    parts: dict[str, dict[str, TunedModule]] = {}
    for name, module in peft.modules.items():
        place = in_timm(name)
        if place is None:
            fix = "train without it in target_modules; the classifier goes into modules_to_save"
            raise InvalidInputError("timm's ViT has no such module", field="target_modules", value=name, fix=fix)
        if place.part:
            _check_part(name, module, place.name, backbone)
            parts.setdefault(place.name, {})[place.part] = module
        else:
            modules[place.name] = module
    for name, own in parts.items():
        modules[name] = _fused(own, _own(backbone, f"{name}.weight"))
    # PEFT saves the biases of the thirds that it edited only.
    tensors = state_in_timm(TENSOR_FILE, peft.tensors, backbone.classifier, partial(_own, backbone))
    return Trained(modules, tensors, config.bias, config.use_dora, config.lora_bias)


def _check_part(name: str, module: TunedModule, fused_name: str, backbone: Backbone) -> None:
    """Raise InvalidInputError unless A and B fit a third of the fused module."""
    weight = _own(backbone, f"{fused_name}.weight")
    wanted = (module.rank, weight.shape[1]), (weight.shape[0] // 3, module.rank)
    if (tuple(module.a.shape), tuple(module.b.shape)) != wanted:
        value = f"{tuple(module.a.shape)}, {tuple(module.b.shape)}"
        fix = f"import it for the backbone that it was trained on; {backbone.name} does not fit"
        raise InvalidInputError(f"A and B of shapes {wanted} expected", field=name, value=value, fix=fix)


def _fused(parts: Mapping[str, TunedModule], weight: Tensor) -> TunedModule:
    """One edit of the fused module (its own weight given), for edits of one, two or all of its thirds."""
    deltas = {
        name: LoraDelta(own.a, own.b, own.scale, None if own.b_bias is None else own.b_bias * own.scale)
        for name, own in parts.items()
    }
    whole = fused_qkv(**deltas)
    lengths = None
    if any(own.lengths is not None for own in parts.values()):
        # A third that was not edited keeps the lengths that its rows have.
        kept = torch.linalg.vector_norm(weight, dim=1).chunk(3)
        given = {name: own.lengths for name, own in parts.items() if own.lengths is not None}
        lengths = torch.cat([given.get(name, own) for name, own in zip(PARTS, kept, strict=True)])
    return TunedModule(whole.a, whole.b, whole.scale, whole.bias, lengths)


def _own(backbone: Backbone, name: str) -> Tensor:
    state: dict[str, Any] = backbone.model.state_dict()
    if name not in state:
        fix = "import it for the ViT that it was trained on"
        raise InvalidInputError(f"{backbone.name} has no such tensor", field="backbone", value=name, fix=fix)
    found: Tensor = state[name].detach().cpu()
    return found
