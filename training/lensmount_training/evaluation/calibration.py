"""What is chosen on the validation pictures after training: a temperature, thresholds, and what is promised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp, log

from torch import Tensor
from torch.nn import functional as F

from lensmount_training.data.listing import Kind

LEAST, MOST = 1e-3, 1e3
DIGITS = 6


@dataclass(frozen=True)
class Calibration:
    """How logits become decisions (`lensmount_adapters.outcome`), and what they must reach.

    `thresholds` has one for each label, or none. `requirements` goes from a metric's name, such as `recall.crack`, to
    the least that it must be. `unmet` are labels whose requirement could not be met on validation; `notes` are
    sentences for people.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    requirements: Mapping[str, float] = field(default_factory=dict)
    unmet: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit_temperature(logits: Tensor, targets: Tensor, kind: Kind) -> tuple[float, str]:
    """The temperature of the least negative log likelihood (Guo et al., ICML 2017), and a note, or "".

    logits (n, labels); targets int64 (n,), or zeros and ones (n, labels). Within the manifest's bounds, and never
    worse on these pictures than 1. Where every picture is right the likelihood grows without end as the temperature
    falls, which says nothing of other pictures: it stays 1 then.
    """
    if separated(logits, targets, kind):
        return 1.0, "Every validation picture is right, which is too easy to fit a temperature: it stays 1."
    found = round(exp(_least(lambda x: _nll(logits, targets, kind, exp(x)), log(LEAST), log(MOST))), DIGITS)
    found = min(max(found, LEAST), MOST)
    if _nll(logits, targets, kind, found) < _nll(logits, targets, kind, 1.0):
        return found, ""
    return 1.0, ""


def separated(logits: Tensor, targets: Tensor, kind: Kind) -> bool:
    """Whether every picture is right, for multi-label in every label."""
    if kind == "multi_label":
        return bool(((logits > 0) == (targets > 0)).all())
    return bool((logits.argmax(1) == targets).all())


def nll(logits: Tensor, targets: Tensor, kind: Kind, temperature: float = 1.0) -> Tensor:
    """Negative log likelihood float64 (n,) of each picture: cross entropy, or the sum of the labels' own."""
    scaled = logits.double() / temperature
    if kind == "multi_label":
        return F.binary_cross_entropy_with_logits(scaled, targets.double(), reduction="none").sum(1)
    return F.cross_entropy(scaled, targets, reduction="none")


def _nll(logits: Tensor, targets: Tensor, kind: Kind, temperature: float) -> float:
    return float(nll(logits, targets, kind, temperature).sort().values.sum())


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is least, by golden section (Kiefer 1953); the likelihood is convex in 1/T."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-7:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
