"""Heads: from a backbone's features to the logits of one task.

A linear head is timm's own classifier, so that PEFT can load it as a module to save. The
others are installed at the classifier's place in the same way.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone


class HeadSpec(BaseModel):
    """What a head is: its kind, and `hidden` units (mlp) or attention `heads` (attention) where it has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["linear", "mlp", "attention", "cosine"] = "linear"
    hidden: int = Field(default=256, ge=1, le=8192)
    heads: int = Field(default=4, ge=1, le=64)


class Mlp(nn.Module):
    """Two layers with GELU between: (rows, features) to (rows, classes)."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits of pooled features."""
        logits: Tensor = self.fc2(F.gelu(self.fc1(pooled)))
        return logits


class Cosine(nn.Module):
    """Scaled cosine to one direction per class (arXiv 1804.09458): (rows, features) to (rows, classes)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features) * features**-0.5)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits of pooled features."""
        return self.scale * F.linear(F.normalize(pooled, dim=-1), F.normalize(self.weight, dim=-1))


class AttentionPool(nn.Module):
    """One learned query attends over all tokens (arXiv 2205.01917): (rows, tokens, channels) to (rows, classes)."""

    def __init__(self, channels: int, heads: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, channels) * channels**-0.5)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.fc = nn.Linear(channels, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of unpooled tokens."""
        query = self.query.expand(tokens.shape[0], -1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        logits: Tensor = self.fc(pooled[:, 0])
        return logits


def build_head(spec: HeadSpec, backbone: Backbone, classes: int) -> nn.Module:
    """A freshly initialised head for `classes` labels on this backbone."""
    if spec.kind == "linear":
        return nn.Linear(backbone.features, classes)
    if spec.kind == "mlp":
        return Mlp(backbone.features, spec.hidden, classes)
    if spec.kind == "cosine":
        return Cosine(backbone.features, classes)
    if backbone.channels % spec.heads:
        fix = f"choose a divisor of {backbone.channels}"
        raise InvalidInputError("the channels must divide by it", field="head.heads", value=spec.heads, fix=fix)
    return AttentionPool(backbone.channels, spec.heads, classes)


def run_head(head: nn.Module, backbone: Backbone, features: Tensor, pooled: Tensor) -> Tensor:
    """Logits (rows, classes) from the last segment's output and the same rows pooled."""
    logits: Tensor = head(backbone.tokens(features) if isinstance(head, AttentionPool) else pooled)
    return logits
