"""Which modules LoRA edits: the kinds that a person may ask for, found by type and by timm's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from torch import nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone

# "all-linear" has the 1x1 convolutions, which are linear layers over channels.
TargetKind = Literal["all-linear", "qkv", "q+v", "convolutions"]

FUSED = "qkv"
# What timm's models call the projections of attention.
PARTS = {FUSED: FUSED, "q": "q", "q_proj": "q", "k": "k", "k_proj": "k", "v": "v", "v_proj": "v"}


def lora_targets(backbone: Backbone, last: int, kind: TargetKind = "all-linear") -> Mapping[int, tuple[str, ...]]:
    """What LoRA edits in the last `last` segments: names of modules by segment index, none empty.

    "all-linear": linear layers and 1x1 convolutions, other ungrouped convolutions only where there are none of
    these. "qkv": the projections of attention; "q+v": of a fused one the outputs of queries and values only (see
    `Tuned`). "convolutions": every ungrouped convolution. Raises InvalidInputError for an unknown kind, and when the
    segments have nothing of it.
    """
    first = len(backbone.segments) - last
    editable = {i: backbone.segments[i].editable_modules() for i in range(first, len(backbone.segments))}
    for fits in _filters(kind):
        found = {i: tuple(name for name, module in own.items() if fits(name, module)) for i, own in editable.items()}
        if any(found.values()):
            return {index: names for index, names in found.items() if names}
    if kind == "all-linear":
        message = f"nothing that LoRA can edit in the last {last} of {len(backbone.segments)} segments"
        raise InvalidInputError(message, field="last_segments", value=last, fix="give a larger --last")
    message = f"{backbone.name} has nothing of this kind in the last {last} of {len(backbone.segments)} segments"
    fix = "give a larger --last, or --targets all-linear"
    raise InvalidInputError(message, field="targets", value=kind, fix=fix)


def _filters(kind: TargetKind) -> tuple[Callable[[str, nn.Module], bool], ...]:
    """Tried one after the other until one finds something."""
    if kind == "qkv":
        return (lambda name, module: _is_product(module) and _part(name) in {FUSED, "q", "k", "v"},)
    if kind == "q+v":
        return (lambda name, module: _is_product(module) and _part(name) in {FUSED, "q", "v"},)
    if kind == "convolutions":
        return (lambda _, module: _is_ungrouped(module),)
    if kind == "all-linear":
        return (lambda _, module: _is_product(module), lambda _, module: _is_ungrouped(module))
    fix = f"choose from {', '.join(get_args(TargetKind))}"
    raise InvalidInputError("no such kind of targets", field="targets", value=kind, fix=fix)


def _part(name: str) -> str:
    """Which projection of attention a module is: q, k, v, or all three fused; "" for another module."""
    return PARTS.get(name.rpartition(".")[2], "")


def _is_product(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (_is_ungrouped(module) and module.kernel_size == (1, 1))


def _is_ungrouped(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
