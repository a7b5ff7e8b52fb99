"""A linear classifier on frozen features: logistic regression, solved to convergence.

Multinomial for single-label; for multi-label one against the rest, all labels in one convex problem that falls apart
into one for each. Features are standardised for the solver, which makes one weight decay mean the same for all of
them, and the standardisation is folded into the layer afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.strategies.losses import Loss, hits

# From strong to weak: each solution starts from the one before.
DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
ITERATIONS = 300
# Of the features' root mean square. Amplifying less than this would amplify the rounding of a server in bf16.
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True, eq=False)
class Examples:
    """Features (n, length) with targets int64 (n,), or zeros and ones (n, labels) for multi-label."""

    features: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear layer, weight (classes, length) and bias (classes,), float32, and how it was chosen."""

    weight: Tensor
    bias: Tensor
    decay: float
    validation_accuracy: float


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and deviation of every feature, float64 (length,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Scale:
        """Of features (n, length); one that hardly moves counts as moving a little."""
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        floor = SMALLEST_DEVIATION * float(features.square().mean().sqrt())
        return cls(mean, deviation.clamp(min=max(floor, 1e-12)))

    def standardise(self, features: Tensor) -> Tensor:
        """Features of mean 0 and deviation 1, float64."""
        return (features.double() - self.mean) / self.deviation

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The layer for features as they are, float32, of one for standardised ones."""
        folded = weight.double() / self.deviation
        return folded.float(), (bias - folded @ self.mean).float()


def fit_probe(train: Examples, validation: Examples, loss: Loss) -> Probe:
    """Fit for every weight decay of `DECAYS` and keep the one with the lowest validation loss.

    Raises InvalidInputError when a feature is not a finite number.
    """
    check_finite(train.features)
    scale = Scale.of(train.features)
    own, other = scale.standardise(train.features), scale.standardise(validation.features)
    loss = loss.like(own)
    count = len(loss.weights)
    weight, bias = own.new_zeros(count, own.shape[1]), own.new_zeros(count)
    best: Probe | None = None
    lowest = float("inf")
    for decay in DECAYS:
        weight, bias = _solve(Examples(own, train.targets), loss, decay, (weight, bias))
        logits = F.linear(other, weight, bias)
        value = float(loss.mean(logits, validation.targets))
        if best is None or value < lowest:
            accuracy = float(hits(loss.kind, logits, validation.targets).mean())
            best, lowest = Probe(*scale.fold(weight, bias), decay, accuracy), value
    if best is None:
        raise InvalidInputError("no weight decay to choose from", field="decays")
    return best


def check_finite(features: Tensor) -> None:
    """Raise InvalidInputError for a backbone whose features are no numbers."""
    if not bool(torch.isfinite(features).all()):
        fix = "give --weights the file of a trained backbone"
        raise InvalidInputError("the backbone's features are not finite numbers", field="weights", fix=fix)


def _solve(train: Examples, loss: Loss, decay: float, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """L-BFGS on the weighted loss plus decay / 2 · |weight|²; for multi-label on the sum of the labels' losses."""
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")
    mass = float(len(train.targets)) if loss.kind == "multi_label" else loss.mass(train.targets)

    def value() -> Tensor:
        solver.zero_grad()
        whole = loss.total(F.linear(train.features, weight, bias), train.targets) / mass
        whole = whole + decay / 2 * weight.square().sum()
        whole.backward()  # type: ignore[no-untyped-call]
        return whole

    solver.step(value)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
