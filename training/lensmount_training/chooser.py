"""Which strategy fits the data: proposed from the data, decided by measurement.

The proposal follows the field's rule of thumb (CS231n, "Transfer learning"): few pictures that look like the backbone's
own want a frozen trunk, more pictures or another kind of picture want to edit it. The baseline is always trained, and
whatever is dearer is kept only when it beats it by more than the noise of the validation pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensmount_training.data.listing import Kind

# Pictures of the smallest class.
FEW, MANY = 200, 1000
FAR = "far"
RESAMPLES = 4000
# One-sided: at most one in twenty of what is kept is no better.
CONFIDENCE = 0.95

BASELINE, FINETUNE, LORA = "features", "finetune", "lora"


@dataclass(frozen=True)
class Proposal:
    """Strategies to try beyond the baseline, in their order, and why, in a sentence."""

    names: tuple[str, ...]
    full: bool
    reason: str


@dataclass(frozen=True)
class Gain:
    """What a candidate brings over the baseline on the same pictures: the difference of accuracy, its 90 % interval."""

    difference: float
    low: float
    high: float

    @property
    def kept(self) -> bool:
        """Whether it is better by more than the noise."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{100 * self.difference:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def propose(smallest: int, domain: str | None) -> Proposal:
    """What to try for a smallest class of so many training pictures, "near", "medium" or "far" from the backbone's."""
    far = domain == FAR
    look = f", {domain} in domain distance" if domain else ""
    data = f"{smallest} training pictures in the smallest class{look}"
    if smallest >= MANY:
        return Proposal((FINETUNE, LORA), full=True, reason=f"{data}: enough to fine-tune every segment")
    if smallest >= FEW:
        return Proposal((FINETUNE, LORA), full=False, reason=f"{data}: unfreezing the last blocks and LoRA are tried")
    if far:
        return Proposal((FINETUNE, LORA), full=False, reason=f"{data}: a frozen trunk may miss what matters")
    untried = "neither unfreezing nor LoRA is tried"
    return Proposal((), full=False, reason=f"{data}: a head on the frozen backbone fits best, {untried}")


def gain(candidate: Tensor, baseline: Tensor, targets: Tensor, kind: Kind, seed: int) -> Gain:
    """Compare logits (n, labels) of two adapters on the same pictures by a paired bootstrap (Efron 1979)."""
    better = _right(candidate, targets, kind) - _right(baseline, targets, kind)
    random = np.random.default_rng(seed)
    differences = better.numpy()[random.integers(0, len(better), (RESAMPLES, len(better)))].mean(1)
    low, high = np.quantile(differences, [1 - CONFIDENCE, CONFIDENCE])
    return Gain(float(better.mean()), float(low), float(high))


def leaves_room(baseline: Tensor, targets: Tensor, kind: Kind, seed: int) -> bool:
    """Whether an adapter that is always right would be kept; where not, nothing that is trained could be."""
    wanted = targets if kind == "multi_label" else torch.nn.functional.one_hot(targets, baseline.shape[1])
    return gain(wanted.float() - 0.5, baseline, targets, kind, seed).kept


def _right(logits: Tensor, targets: Tensor, kind: Kind) -> Tensor:
    """For each picture: 1 or 0 for single-label, for multi-label the share of labels that are right."""
    if kind == "multi_label":
        return ((logits > 0) == (targets > 0.5)).double().mean(1)
    return (logits.argmax(1) == targets).to(torch.float64)
