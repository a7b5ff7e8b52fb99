"""A fully fine-tuned model as LoRA: the best low-rank stand-ins for its weights' changes (Eckart and Young, 1936).

What A and B can not hold: norms, class tokens, position embeddings and grouped convolutions. A segment in which only
such tensors changed is replaced, which is exact; so is one whose BatchNorm statistics moved, since nothing beside them
means anything without them. Elsewhere they are dropped, and the loss that is measured has their effect in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.peft_file import TunedModule
from lensmount_adapters.importing.plan import changes
from lensmount_adapters.importing.trained import Trained

Advance = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Decomposed:
    """The change of one weight as U · S · V: U (out, full rank) with S in it, V (full rank, in)."""

    u: Tensor
    v: Tensor
    shape: torch.Size

    def at(self, rank: int) -> TunedModule:
        """A and B of this rank, or of the full one where that is lower; the singular values shared out evenly."""
        kept = min(rank, len(self.v))
        a, b = self.v[:kept].clone(), self.u[:, :kept].clone()
        if len(self.shape) == 4:
            return TunedModule(a.reshape(kept, *self.shape[1:]), b[:, :, None, None], 1.0)
        return TunedModule(a, b, 1.0)


@dataclass(frozen=True, eq=False)
class Change:
    """All changes of a model: decomposed weights by module, tensors that stay whole, names of those dropped."""

    decomposed: Mapping[str, Decomposed]
    whole: Mapping[str, Tensor]
    dropped: tuple[str, ...]
    biased: bool

    @property
    def full_rank(self) -> int:
        """The rank from which on nothing of a weight is lost."""
        return max(len(own.v) for own in self.decomposed.values())

    def at(self, rank: int) -> Trained:
        """What was trained, its weights' changes at this rank."""
        modules = {name: own.at(rank) for name, own in self.decomposed.items()}
        return Trained(modules, self.whole, "lora_only" if self.biased else "none")


def decompose(trained: Trained, backbone: Backbone, advance: Advance = lambda: None) -> Change:
    """Decompose every weight that a whole checkpoint changes; `advance` is called for each.

    Raises InvalidInputError when no segment has a change that LoRA could hold.
    """
    changed = changes(trained, backbone)
    weights = _editable(changed, backbone)
    if not weights:
        fix = "import it with --as replaced"
        message = "no weight changed that LoRA can edit, or BatchNorm statistics moved with all of them"
        raise InvalidInputError(message, field="as", value="lora", fix=fix)
    edited = {backbone.segment_of(name) for name in weights}
    decomposed = {}
    for name, module in weights.items():
        decomposed[name] = _decompose(changed[f"{name}.weight"] - module.weight.detach().cpu())
        advance()
    carried = {f"{name}.{what}" for name in weights for what in ("weight", "bias")}
    whole, dropped = {}, []
    for name, tensor in changed.items():
        if name.endswith(".bias") and name in carried:
            whole[name] = tensor
        elif name not in carried and backbone.segment_of(name) in edited:
            dropped.append(name)
        elif name not in carried:
            whole[name] = tensor
    biased = any(name in carried for name in whole)
    classifier = {name: t for name, t in trained.tensors.items() if name.startswith(f"{backbone.classifier}.")}
    return Change(decomposed, {**whole, **classifier}, tuple(dropped), biased)


def editable_count(trained: Trained, backbone: Backbone) -> int:
    """How many weights there are to decompose."""
    return len(_editable(changes(trained, backbone), backbone))


def _editable(changed: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Any]:
    """The modules whose weight changed and that LoRA may edit, in segments whose statistics did not move."""
    moved = {backbone.segment_of(name) for name in changed if name.endswith(("running_mean", "running_var"))}
    return {
        name: module
        for index, segment in enumerate(backbone.segments)
        if index not in moved
        for name, module in segment.editable_modules().items()
        if f"{name}.weight" in changed and _plain(module)
    }


def _plain(module: Any) -> bool:
    return not isinstance(module, nn.Conv2d) or (module.groups == 1 and module.padding_mode == "zeros")


def _decompose(change: Tensor) -> Decomposed:
    u, s, v = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
    root = s.sqrt()
    return Decomposed((u * root).float(), (root[:, None] * v).float(), change.shape)
