"""From logits to what a person reads: probabilities and the decision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lensmount_adapters.manifest import Manifest

DEFAULT_THRESHOLD = 0.5
# What a threshold of 0 counts as in a single-label task: the label wins wherever it has any probability to speak of.
LEAST_THRESHOLD = 1e-6


def probabilities(manifest: Manifest, logits: Tensor) -> Tensor:
    """Calibrated probabilities of the same shape (…, labels): softmax, or sigmoid for multi-label."""
    return calibrated(manifest.kind, manifest.temperature, logits)


def calibrated(kind: str, temperature: float, logits: Tensor) -> Tensor:
    """Probabilities float32 (…, labels) of logits that are divided by the temperature before."""
    # Most are not calibrated, and a division by 1 changes nothing.
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    return torch.sigmoid(scaled) if kind == "multi_label" else torch.softmax(scaled, dim=-1)


def decide(manifest: Manifest, scores: tuple[float, ...]) -> tuple[str, ...]:
    """The label that is best against its threshold; for multi-label every label at or above it (0.5 by default).

    Single-label: the largest score / threshold wins, the first of equals, so equal thresholds, or none, leave it to
    the largest score. A threshold of 0 counts as `LEAST_THRESHOLD`.
    """
    if manifest.kind == "single_label":
        ratios = [score / own for score, own in zip(scores, _divisors(manifest.thresholds, len(scores)), strict=True)]
        return (manifest.labels[ratios.index(max(ratios))],)
    thresholds = manifest.thresholds or [DEFAULT_THRESHOLD] * len(manifest.labels)
    chosen = zip(manifest.labels, scores, thresholds, strict=True)
    return tuple(label for label, score, threshold in chosen if score >= threshold)


def decide_rows(kind: str, thresholds: Sequence[float], scores: Tensor) -> Tensor:
    """What `decide` decides for every row of probabilities (rows, labels): bool (rows, labels)."""
    own = scores.double()
    if kind == "multi_label":
        return own >= torch.tensor(thresholds or [DEFAULT_THRESHOLD], dtype=torch.float64)
    best = (own / torch.tensor(_divisors(thresholds, own.shape[1]), dtype=torch.float64)).argmax(1)
    return torch.nn.functional.one_hot(best, own.shape[1]).bool()


def _divisors(thresholds: Sequence[float], labels: int) -> list[float]:
    """What each score is divided by; ones where all are equal, so that rounding never makes equals of two scores."""
    if len(set(thresholds)) < 2:
        return [1.0] * labels
    return [max(threshold, LEAST_THRESHOLD) for threshold in thresholds]
