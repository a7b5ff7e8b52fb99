"""A backbone's model with a classifier and PEFT's LoRA in it, beside the untouched backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.backbones.families import segments_of
from lensmount_adapters.package import PREFIX
from lensmount_training.strategies.strategy import Problem


@dataclass(frozen=True, eq=False)
class Tuned:
    """PEFT's model around a copy of timm's, with the segments of that copy; always in evaluation mode.

    Evaluation mode keeps BatchNorm on its pretrained statistics; gradients flow all the same.
    """

    peft: Any
    segments: tuple[Segment, ...]
    fork: int
    targets: tuple[str, ...]

    def tail(self, x: Tensor) -> Tensor:
        """Activations at the fork to logits, through the edited modules."""
        for segment in self.segments[self.fork :]:
            x = segment(x)
        logits: Tensor = self.peft.get_base_model().forward_head(x)
        return logits

    def trainable(self) -> list[nn.Parameter]:
        """What is learned: A and B of every target, and the head."""
        return [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

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


def lora_targets(backbone: Backbone, last: int) -> Mapping[int, tuple[str, ...]]:
    """What LoRA edits in the last `last` segments: names of modules by segment index, none empty.

    Linear layers and 1x1 convolutions; other ungrouped convolutions only where there are none of
    these. Raises InvalidInputError when the segments have nothing to edit.
    """
    first = len(backbone.segments) - last
    editable = {i: backbone.segments[i].editable_modules() for i in range(first, len(backbone.segments))}
    for fits in (_is_product, _is_ungrouped):
        targets = {i: tuple(name for name, module in own.items() if fits(module)) for i, own in editable.items()}
        if any(targets.values()):
            return {index: names for index, names in targets.items() if names}
    message = f"nothing that LoRA can edit in the last {last} of {len(backbone.segments)} segments"
    raise InvalidInputError(message, field="last_segments", value=last, fix="give a larger --last-segments")


def adapt(problem: Problem, targets: Mapping[int, Sequence[str]], rank: int, alpha: float) -> Tuned:
    """Copy the backbone's model, give it a classifier of zeros and let PEFT edit the targets.

    A classifier that already fits the frozen features leaves the edits little gradient to learn from.
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
        peft = get_peft_model(model, config).eval()
    # The segments are those of the model that PEFT has edited: lists made earlier may hold replaced modules.
    return Tuned(peft, segments_of(model), min(targets), names)


def _clear(classifier: Any) -> None:
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)


def _is_product(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (_is_ungrouped(module) and module.kernel_size == (1, 1))


def _is_ungrouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
