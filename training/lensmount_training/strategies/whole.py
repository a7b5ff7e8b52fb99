"""A copy of a backbone's model with a classifier, to be trained beside the untouched backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.backbones.families import segments_of
from lensmount_adapters.manifest import Edit


@dataclass(frozen=True, eq=False)
class Whole:
    """Timm's model, its segments and the name of its classifier; in evaluation mode, nothing of it trainable yet."""

    model: Any
    segments: tuple[Segment, ...]
    classifier: str

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        head: nn.Linear = self.model.get_submodule(self.classifier)
        return head

    def tail(self, fork: int) -> Callable[[Tensor], Tensor]:
        """From what enters segment `fork` to logits."""

        def run(x: Tensor) -> Tensor:
            for segment in self.segments[fork:]:
                x = segment(x)
            logits: Tensor = self.model.forward_head(x)
            return logits

        return run

    def learnable(self, segment: int) -> tuple[nn.Parameter, ...]:
        """The parameters of a segment, from now on with gradients."""
        named: Iterator[tuple[str, nn.Parameter]] = self.model.named_parameters()
        own = tuple(parameter for name, parameter in named if self.segments[segment].owns_tensor(name))
        for parameter in own:
            parameter.requires_grad_()
        return own

    def norms(self, fork: int) -> tuple[nn.Module, ...]:
        """The BatchNorm layers from segment `fork` on."""
        owners = self.segments[fork:]
        return tuple(
            module
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm) and any(owner.owns_tensor(f"{name}.weight") for owner in owners)
        )

    def freeze(self) -> None:
        """Take all gradients off."""
        self.model.requires_grad_(requires_grad=False)

    def tensors(self, fork: int) -> dict[str, Tensor]:
        """A copy of the classifier and of every parameter and buffer from segment `fork` on."""
        return {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.model.state_dict().items()
            if name.startswith(f"{self.classifier}.") or any(own.owns_tensor(name) for own in self.segments[fork:])
        }

    def edits(self, fork: int) -> tuple[Edit, ...]:
        """Segments from `fork` on, replaced; those without a tensor have nothing that could be."""
        names = list(self.model.state_dict())
        replaced = [own for own in self.segments[fork:] if any(map(own.owns_tensor, names))]
        return tuple(Edit(segment=own.name, kind="replace") for own in replaced)


def whole(backbone: Backbone, labels: int) -> Whole:
    """Copy the backbone's model and give it a classifier of zeros."""
    model: Any = copy.deepcopy(backbone.model)
    with torch.random.fork_rng():  # a fresh classifier, which is overwritten, must not move anybody's random state
        model.reset_classifier(labels)
    model.to(backbone.device).eval().requires_grad_(requires_grad=False)
    copied = Whole(model, segments_of(model), backbone.classifier)
    nn.init.zeros_(copied.head.weight)
    nn.init.zeros_(copied.head.bias)
    return copied


def blocks(backbone: Backbone) -> tuple[int, ...]:
    """The steps of unfreezing, from the top: each goes down to the next segment that has a matrix of weights.

    A norm without one goes with the block below it.
    """
    matrices = [name for name, parameter in backbone.model.named_parameters() if parameter.ndim > 1]
    return tuple(
        index
        for index in reversed(range(len(backbone.segments)))
        if any(map(backbone.segments[index].owns_tensor, matrices))
    )


def randomise(model: nn.Module, seed: int) -> None:
    """Draw all weights anew, as if the model had never been trained; nobody else's random numbers are touched."""
    fresh: set[int] = set()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                fresh.update(map(id, module.parameters(recurse=False)))
        for parameter in model.parameters():
            if id(parameter) not in fresh:
                _draw(parameter)


def _draw(parameter: Tensor) -> None:
    """A parameter that no module resets: tokens and positions are small, as ViT has them; scales of layers are one."""
    if parameter.ndim > 1:
        nn.init.trunc_normal_(parameter, std=0.02)
    else:
        nn.init.ones_(parameter)
