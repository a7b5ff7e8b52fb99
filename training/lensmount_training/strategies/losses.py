"""What is minimised, in a form whose parts add up, and what is counted as right.

A mean over a batch is a sum by a mass. The mass is known from the targets of the whole batch alone, so the gradients
of its parts (micro-batches, shares of several processes) add up to that of the whole, class weights included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount_training.data.listing import Kind
from lensmount_training.strategies.strategy import Problem


@dataclass(frozen=True, eq=False)
class Loss:
    """Cross-entropy, each class with its weight; for multi-label binary cross-entropy, each label with `pos_weight`.

    `smoothing` (arXiv 1512.00567) moves that share of every target to all labels, for multi-label to one half.
    """

    kind: Kind
    weights: Tensor
    smoothing: float = 0.0

    @classmethod
    def of(cls, problem: Problem, smoothing: float = 0.0, *, weighted: bool = True) -> Loss:
        """The loss of a problem, with its class weights or with ones."""
        weights = problem.class_weights
        return cls(problem.kind, weights if weighted else torch.ones_like(weights), smoothing)

    def like(self, tensor: Tensor) -> Loss:
        """The same loss for logits on this tensor's device and in its precision."""
        return replace(self, weights=self.weights.to(tensor))

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted sum over pictures (and labels, for multi-label) of logits (n, labels).

        Targets are int64 (n,), or shares (n, labels) for multi-label and for pictures that were mixed.
        """
        if self.kind == "multi_label":
            smooth = targets * (1 - self.smoothing) + self.smoothing / 2
            return F.binary_cross_entropy_with_logits(
                logits, smooth.to(logits), pos_weight=self.weights, reduction="sum"
            )
        soft = targets.to(logits) if targets.is_floating_point() else targets
        return F.cross_entropy(logits, soft, self.weights, reduction="sum", label_smoothing=self.smoothing)

    def mass(self, targets: Tensor) -> float:
        """What `total` of these targets is divided by for the mean; mixing pictures in pairs leaves it as it is."""
        if self.kind == "multi_label":
            return float(targets.numel())
        return float(self.weights[targets.to(self.weights.device)].sum())

    def mean(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean: PyTorch's own."""
        return self.total(logits, targets) / self.mass(targets)


def hits(kind: Kind, logits: Tensor, targets: Tensor) -> Tensor:
    """What is right of every picture, float64 (n,): 0 or 1; for multi-label the share of labels decided rightly."""
    if kind == "multi_label":
        return ((logits > 0) == (targets > 0.5)).double().mean(1)
    return (logits.argmax(1) == targets).double()
