"""Copies of a backbone for computing: in another precision, or with some tensors exchanged."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.families import segments_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def lowered(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """The same backbone (name, fingerprint) with its weights in `dtype`, convolutions channels-last."""
    model = copy.deepcopy(backbone.model).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(backbone, model=model, segments=segments_of(model))


def twin(backbone: Backbone) -> Backbone:
    """The same backbone with modules of its own over the same tensors."""
    model = with_tensors(backbone.model, {})
    return replace(backbone, model=model, segments=segments_of(model))


def with_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model that shares every tensor but the given ones, which take the model's precision."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shared = {id(tensor): tensor for name, tensor in own.items() if name not in tensors}
    exchanged = {id(own[name]): _like(own[name], tensor) for name, tensor in tensors.items()}
    return copy.deepcopy(model, {**shared, **exchanged})


def _like(own: Tensor, tensor: Tensor) -> Tensor:
    tensor = tensor.to(own.dtype)
    if own.ndim == 4:
        tensor = tensor.to(memory_format=torch.channels_last)
    return nn.Parameter(tensor, requires_grad=False) if isinstance(own, nn.Parameter) else tensor
