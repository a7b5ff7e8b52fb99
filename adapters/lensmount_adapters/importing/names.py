"""Hugging Face's ViT (`ViTForImageClassification`) beside timm's: one architecture, two sets of names.

transformers 5 renamed the modules; files of both generations are about, and transformers 5 itself still saves a model's
weights (but not PEFT's) under the names of 4:

    transformers 4                             5                         timm
    encoder.layer.N.attention.attention.query  layers.N.attention.q_proj blocks.N.attn.qkv, the first third
    encoder.layer.N.attention.output.dense     layers.N.attention.o_proj blocks.N.attn.proj
    encoder.layer.N.intermediate.dense         layers.N.mlp.fc1          blocks.N.mlp.fc1
    encoder.layer.N.output.dense               layers.N.mlp.fc2          blocks.N.mlp.fc2

Everything stands below `vit.` but the classifier; a bare ViTModel has no such prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.qkv import PARTS

CLASSIFIER = "classifier"

_BLOCK = re.compile(r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.(.+)")
_IN_BLOCK = {
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    **{
        f"attention.attention.{old}": f"attention.{old[0]}_proj"
        for old in ("query", "key", "value")
    },
}  # fmt: skip
_TIMM_IN_BLOCK = {
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    **{f"attention.{part}_proj": "attn.qkv" for part in PARTS},
}
_TIMM_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
# Parts of a checkpoint that a classifier of pictures does not run.
IGNORED = ("pooler.", "vit.pooler.", "embeddings.mask_token", "vit.embeddings.mask_token")


@dataclass(frozen=True)
class Place:
    """A module or tensor in timm's model; `part` is q, k or v where it is a third of the fused one."""

    name: str
    part: str = ""


def current(module: str) -> str:
    """The name in transformers 5 of a module or tensor of ViTForImageClassification, whatever its generation."""
    bare = module.removeprefix("vit.")
    if found := _BLOCK.fullmatch(bare):
        return f"vit.layers.{found[1]}.{_renamed(found[2], _IN_BLOCK)}"
    return bare if bare.split(".")[0] == CLASSIFIER else f"vit.{bare}"


def in_timm(module: str) -> Place | None:
    """Where a module or tensor (by its name of either generation) is in timm's ViT; None for one that it lacks."""
    bare = current(module).removeprefix("vit.")
    if found := _BLOCK.fullmatch(bare):
        inner, suffix = _split(found[2], _TIMM_IN_BLOCK)
        if not inner:
            return None
        part = inner[len("attention.")] if _TIMM_IN_BLOCK[inner] == "attn.qkv" else ""
        return Place(f"blocks.{found[1]}.{_TIMM_IN_BLOCK[inner]}{suffix}", part)
    outer, suffix = _split(bare, _TIMM_OUTSIDE)
    return Place(f"{_TIMM_OUTSIDE[outer]}{suffix}") if outer else None


def state_in_timm(
    file: str, tensors: Mapping[str, Tensor], classifier: str, own: Callable[[str], Tensor] | None = None
) -> dict[str, Tensor]:
    """Weights of a ViT of Hugging Face's by their names in timm; the classifier's below `classifier`.

    A third of a fused tensor that is not there is taken of `own(name)`, the whole of it. Raises InvalidInputError for
    a tensor that timm's ViT has no place for, or, without `own`, q, k, v that are not all there.
    """
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(IGNORED):
            continue
        if name.startswith(f"{CLASSIFIER}."):
            whole[f"{classifier}.{name.removeprefix(f'{CLASSIFIER}.')}"] = tensor
            continue
        place = in_timm(name)
        if place is None:
            fix = "import a ViTForImageClassification; modules_to_save may name its modules"
            raise InvalidInputError("timm's ViT has no such tensor", field=f"{file}: {name}", fix=fix)
        if place.part:
            parts.setdefault(place.name, {})[place.part] = tensor
        else:
            whole[place.name] = tensor
    for name, given in parts.items():
        kept = dict(zip(PARTS, own(name).chunk(3), strict=True)) if own else {}
        whole[name] = _fused(f"{file}: {name}", {**kept, **given})
    return whole


def _fused(field: str, parts: Mapping[str, Tensor]) -> Tensor:
    """q, k and v as timm's one tensor; raises InvalidInputError unless all three are there, of one shape."""
    if set(parts) != set(PARTS) or len({parts[part].shape for part in PARTS}) > 1:
        shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in sorted(parts.items()))
        fix = "import a checkpoint with queries, keys and values of one shape"
        raise InvalidInputError("q, k and v of one shape expected", field=field, value=shapes, fix=fix)
    return torch.cat([parts[part] for part in PARTS])


def _renamed(name: str, names: Mapping[str, str]) -> str:
    found, suffix = _split(name, names)
    return f"{names[found]}{suffix}" if found else name


def _split(name: str, names: Mapping[str, str]) -> tuple[str, str]:
    """The entry that the name is, or is below of, and what stands behind it; empty without one."""
    found = next((entry for entry in names if name == entry or name.startswith(f"{entry}.")), "")
    return found, name[len(found) :] if found else ""
