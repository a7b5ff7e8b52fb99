"""A backbone's model with a classifier and PEFT's LoRA in it, beside the untouched backbone.

PEFT edits a fused `qkv` as one layer. For queries and values only, the rows of B that the keys come from start at
zero, as all of B does, and their gradient is zero: then AdamW's step and its decay are zero too, and they stay zero
to the bit. Queries and values share A; `lensmount_adapters.qkv` has the form with an A of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.backbones.families import segments_of
from lensmount_adapters.package import PREFIX
from lensmount_training.strategies.learner import Group, Learner
from lensmount_training.strategies.strategy import Problem
from lensmount_training.strategies.targets import FUSED


@dataclass(frozen=True, eq=False)
class Tuned:
    """PEFT's model around a copy of timm's, with the segments of that copy; always in evaluation mode.

    Evaluation mode keeps BatchNorm on its pretrained statistics; gradients flow all the same. `held` numbers are
    trainable to PEFT and stay zero.
    """

    peft: Any
    segments: tuple[Segment, ...]
    fork: int
    targets: tuple[str, ...]
    held: int

    def tail(self, x: Tensor) -> Tensor:
        """Activations at the fork to logits, through the edited modules."""
        for segment in self.segments[self.fork :]:
            x = segment(x)
        logits: Tensor = self.peft.get_base_model().forward_head(x)
        return logits

    def learner(self, rate: float) -> Learner:
        """A and B of every target, and the head, all at one rate."""
        learned = [(name, own) for name, own in self.peft.named_parameters() if own.requires_grad]
        edits = tuple(own for name, own in learned if ".lora_" in name)
        head = tuple(own for name, own in learned if ".lora_" not in name)
        return Learner(self.tail, (Group("lora", rate, edits), Group("head", rate, head)))

    @property
    def count(self) -> int:
        """How many numbers are learned."""
        parameters: Iterator[nn.Parameter] = self.peft.parameters()
        return sum(own.numel() for own in parameters if own.requires_grad) - self.held

    def tensors(self) -> dict[str, Tensor]:
        """A copy of what was learned, by PEFT's names without its prefix."""
        state: dict[str, Tensor] = get_peft_model_state_dict(self.peft)
        return {name.removeprefix(PREFIX): tensor.detach().cpu().clone() for name, tensor in state.items()}

    def config(self) -> dict[str, object]:
        """PEFT's configuration as JSON knows it; every edited module by its full name."""
        config = self.peft.peft_config["default"].to_dict()
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        peft_type = config["peft_type"].value
        own = {"peft_type": peft_type, "target_modules": sorted(self.targets), "inference_mode": True}
        return {**plain, **own, "base_model_name_or_path": None}

    def merge(self) -> Callable[[Tensor], Tensor]:
        """Merge the edits into the weights, after which this object must not be used; the plain model."""
        model: Callable[[Tensor], Tensor] = self.peft.merge_and_unload().eval()
        return model


def adapt(
    problem: Problem,
    targets: Mapping[int, Sequence[str]],
    rank: int,
    alpha: float,
    *,
    keys: bool = True,
) -> Tuned:
    """Copy the backbone's model, give it a classifier of zeros and let PEFT edit the targets.

    A classifier that already fits the frozen features leaves the edits little gradient to learn from. Without
    `keys`, those of a fused `qkv` are not edited.
    """
    backbone = problem.backbone
    names = tuple(name for own in targets.values() for name in own)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(names), modules_to_save=[backbone.classifier], bias="none"
    )
    model: Any = copy.deepcopy(backbone.model)
    with torch.random.fork_rng():
        torch.manual_seed(problem.seed)
        model.reset_classifier(len(problem.labels))
        _clear(model.get_submodule(backbone.classifier))
        peft = get_peft_model(model, config).to(backbone.device).eval()
    held = 0 if keys else _hold_keys(peft)
    # The segments are those of the model that PEFT has edited: lists made earlier may hold replaced modules.
    return Tuned(peft, segments_of(model), min(targets), names, held)


def full_parameters(backbone: Backbone, labels: int) -> int:
    """What full fine-tuning would train: the backbone and a linear classifier."""
    return sum(own.numel() for own in backbone.model.parameters()) + labels * (backbone.features + 1)


def _hold_keys(peft: nn.Module) -> int:
    """Take the gradient off the middle third of every fused B; how many numbers these are."""
    held = 0
    for name, parameter in peft.named_parameters():
        if f".{FUSED}.lora_B." in name:
            out = parameter.shape[0] // 3
            rows = torch.zeros(parameter.shape[0], 1, dtype=torch.bool, device=parameter.device)
            rows[out : 2 * out] = True
            held += out * parameter.shape[1]
            parameter.register_hook(partial(_without, rows))  # type: ignore[no-untyped-call]
    return held


def _without(rows: Tensor, gradient: Tensor) -> Tensor:
    return gradient.masked_fill(rows, 0.0)


def _clear(classifier: Any) -> None:
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
