"""From logits to what a person reads: probabilities and the decision."""

from __future__ import annotations

import torch
from torch import Tensor

from lensmount_adapters.manifest import Manifest


def probabilities(manifest: Manifest, logits: Tensor) -> Tensor:
    """Calibrated probabilities of the same shape (…, labels): softmax, or sigmoid for multi-label."""
    scaled = logits.float() / manifest.temperature
    return torch.sigmoid(scaled) if manifest.kind == "multi_label" else torch.softmax(scaled, dim=-1)


def decide(manifest: Manifest, scores: tuple[float, ...]) -> tuple[str, ...]:
    """The best label; for multi-label every label at or above its threshold (0.5 by default)."""
    if manifest.kind == "single_label":
        return (manifest.labels[scores.index(max(scores))],)
    thresholds = manifest.thresholds or [0.5] * len(manifest.labels)
    chosen = zip(manifest.labels, scores, thresholds, strict=True)
    return tuple(label for label, score, threshold in chosen if score >= threshold)
