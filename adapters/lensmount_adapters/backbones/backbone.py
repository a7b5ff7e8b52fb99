"""A backbone: a timm model without its classifier, as segments, known by its weights."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones.families import segments_of
from lensmount_adapters.backbones.segments import Segment
from lensmount_adapters.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen timm model that every task shares.

    `fingerprint` is the SHA-256 of its tensors (see `fingerprint`), `segments` its forward
    pass up to the features, `classifier` timm's path of the classifier that heads replace,
    `features` the length of a pooled feature vector and `channels` that of an unpooled one.
    """

    name: str
    model: nn.Module
    fingerprint: str
    segments: tuple[Segment, ...]
    classifier: str
    features: int
    channels: int
    preprocessing: Preprocessing

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def fixed_size(self) -> bool:
        """Whether the model takes pictures of its own size only, as one with position embeddings does."""
        model: Any = self.model
        return bool(model.default_cfg.get("fixed_input_size"))

    @property
    def shared(self) -> bool:
        """Whether rows of different adapters can share segments: false for an unknown family."""
        return all(segment.mixable for segment in self.segments)

    def forward_features(self, x: Tensor, start: int = 0) -> Tensor:
        """Segments `start` to the last on `x`; from 0, x is normalised (rows, 3, height, width)."""
        for segment in self.segments[start:]:
            x = segment(x)
        return x

    def pool(self, features: Tensor) -> Tensor:
        """Pool the last segment's output as the model itself does: (rows, `features`)."""
        model: Any = self.model
        pooled: Tensor = model.forward_head(features, pre_logits=True)
        return pooled

    def tokens(self, features: Tensor) -> Tensor:
        """Flatten the last segment's output to tokens: (rows, tokens, `channels`)."""
        if features.ndim == 3:
            return features
        if features.shape[1] == self.channels:
            return features.flatten(2).transpose(1, 2)
        return features.flatten(1, 2)

    def segment_of(self, tensor_name: str) -> int | None:
        """Index of the segment that owns a parameter, buffer or module; None when none does."""
        owners = (index for index, segment in enumerate(self.segments) if segment.owns_tensor(tensor_name))
        return next(owners, None)


def wrap(model: nn.Module, name: str) -> Backbone:
    """Make a backbone of a timm model created with `num_classes=0`: frozen, in evaluation mode.

    Raises InvalidInputError for a model that averages several classifiers, as distilled ones do.
    """
    timm_model: Any = model
    classifier = timm_model.default_cfg["classifier"]
    if not isinstance(classifier, str):
        message, fix = "a model with several classifiers can not be a backbone", "use its variant that is not distilled"
        raise InvalidInputError(message, field="backbone", value=name, fix=fix)
    timm_model.eval().requires_grad_(requires_grad=False)
    segments = segments_of(timm_model)
    return Backbone(
        name=name,
        model=timm_model,
        fingerprint=fingerprint(timm_model),
        segments=segments,
        classifier=classifier,
        features=timm_model.head_hidden_size,
        channels=timm_model.num_features,
        preprocessing=Preprocessing.from_timm(resolve_model_data_config(timm_model)),
    )


def create_model(name: str, **options: Any) -> nn.Module:
    """Create timm's model `name`, with or without a tag, without weights and without classifier.

    Raises InvalidInputError with the nearest names when timm has no such model or tag.
    """
    known = [*timm.list_models(), *timm.list_models(pretrained=True)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"use one of timm's names, such as {', '.join(near)}" if near else "use a name of timm.list_models()"
        raise InvalidInputError("timm has no model of this name", field="backbone", value=name, fix=hint)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    return model


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer: name, dtype, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
