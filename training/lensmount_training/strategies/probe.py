"""A linear classifier on frozen features: multinomial logistic regression, solved to convergence.

Features are standardised for the solver, which makes one weight decay mean the same for all of
them, and the standardisation is folded into the layer afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import InvalidInputError

# From strong to weak: each solution starts from the one before.
DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
ITERATIONS = 300
# Of the features' root mean square. Amplifying less than this would amplify the rounding of a server in bf16.
SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True, eq=False)
class Examples:
    """Features (n, length) with targets int64 (n,)."""

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
class _Scale:
    mean: Tensor
    deviation: Tensor

    def standardise(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.deviation

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        folded = weight / self.deviation
        return folded.float(), (bias - folded @ self.mean).float()


def fit_probe(train: Examples, validation: Examples, class_weights: Tensor) -> Probe:
    """Fit for every weight decay of `DECAYS` and keep the one with the lowest validation loss.

    Raises InvalidInputError when a feature is not a finite number.
    """
    if not bool(torch.isfinite(train.features).all()):
        fix = "give --weights the file of a trained backbone"
        raise InvalidInputError("the backbone's features are not finite numbers", field="weights", fix=fix)
    scale = _scale(train.features)
    own, other = scale.standardise(train.features), scale.standardise(validation.features)
    weights = class_weights.double()
    weight, bias = own.new_zeros(len(weights), own.shape[1]), own.new_zeros(len(weights))
    best: Probe | None = None
    lowest = float("inf")
    for decay in DECAYS:
        weight, bias = _solve(own, train.targets, weights, decay, (weight, bias))
        logits = F.linear(other, weight, bias)
        loss = float(F.cross_entropy(logits, validation.targets, weights))
        if best is None or loss < lowest:
            accuracy = float((logits.argmax(1) == validation.targets).double().mean())
            best, lowest = Probe(*scale.fold(weight, bias), decay, accuracy), loss
    if best is None:
        raise InvalidInputError("no weight decay to choose from", field="decays")
    return best


def _scale(features: Tensor) -> _Scale:
    deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
    floor = SMALLEST_DEVIATION * float(features.square().mean().sqrt())
    return _Scale(mean, deviation.clamp(min=max(floor, 1e-12)))


def _solve(
    features: Tensor, targets: Tensor, class_weights: Tensor, decay: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """L-BFGS on the class-weighted cross-entropy plus decay / 2 · |weight|²."""
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(features, weight, bias), targets, class_weights)
        value = value + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
