"""Gradient descent on the tail of a model, from cached activations, keeping the best epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_training.context import Context
from lensmount_training.features import Cache, batches
from lensmount_training.progress import Bar
from lensmount_training.strategies.strategy import Problem
from lensmount_training.strategies.tuned import Tuned


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up (a share of all steps) and a cosine down to zero.

    In every epoch each picture is seen once, in one of its views. A small set gets more epochs, so
    that there are at least `least_steps` steps.
    """

    epochs: int = 8
    least_steps: int = 100
    learning_rate: float = 2e-3
    batch: int = 32
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.05

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a number that can not work."""
        if not 0 < self.learning_rate < math.inf:
            raise InvalidInputError(
                "above 0 expected", field="learning_rate", value=self.learning_rate, fix="give a number such as 0.001"
            )
        for name in ("epochs", "least_steps", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    "1 or more expected", field=name, value=getattr(self, name), fix="give a whole number from 1"
                )

    def epochs_for(self, pictures: int) -> int:
        """How many epochs a training set of so many pictures gets."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(pictures / self.batch)))

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied with at `step` of `steps`, both from 0."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def descend(
    tuned: Tuned, train: Cache, validation: Cache, schedule: Schedule, problem: Problem, context: Context
) -> int:
    """Train what is trainable in `tuned` and leave the best epoch in it; returns that epoch, from 1.

    Raises InvalidInputError when the loss is no number.
    """
    epochs = schedule.epochs_for(len(train))
    steps = epochs * math.ceil(len(train) / schedule.batch)
    descent = _Descent(tuned, schedule, steps, problem.class_weights)
    best = _Best(tuned.trainable())
    random = torch.Generator().manual_seed(problem.seed)
    bar = context.progress.bar("training", steps)
    for epoch in range(1, epochs + 1):
        descent.epoch(train, random, bar)
        accuracy, loss = descent.judge(validation)
        best.offer(epoch, accuracy, loss)
        bar.advance(0, f"epoch {epoch}, validation {accuracy:.3f}")
    best.restore()
    return best.epoch


class _Descent:
    """The state of one training: optimiser and learning rate."""

    def __init__(self, tuned: Tuned, schedule: Schedule, steps: int, class_weights: Tensor) -> None:
        parameters = tuned.trainable()
        self._tuned = tuned
        self._schedule = schedule
        self._weights = class_weights.to(parameters[0].device)
        self._optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        self._rates = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: schedule.factor(step, steps))

    def epoch(self, cache: Cache, random: torch.Generator, bar: Bar) -> None:
        """Every picture once."""
        for x, targets in _shuffled(cache, self._schedule.batch, random):
            self._optimizer.zero_grad()
            loss = self._loss(self._logits(x), targets, self._schedule.label_smoothing)
            self._check(loss)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._rates.step()
            bar.advance()

    @torch.no_grad()
    def judge(self, cache: Cache) -> tuple[float, float]:
        """Accuracy and class-weighted cross-entropy on the first view."""
        logits = torch.cat([self._logits(cache.plain(own)) for own in batches(len(cache))])
        loss = self._loss(logits, cache.targets)
        self._check(loss)
        return float((logits.argmax(1).cpu() == cache.targets).double().mean()), float(loss)

    def _logits(self, x: Tensor) -> Tensor:
        return self._tuned.tail(x.to(self._weights.device).float())

    def _loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(logits, targets.to(logits.device), self._weights, label_smoothing=smoothing)

    def _check(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            rate = self._schedule.learning_rate
            message, fix = "the loss is no longer a finite number", f"lower it: --learning-rate {rate / 10:g}"
            raise InvalidInputError(message, field="learning_rate", value=rate, fix=fix)


class _Best:
    """The learned values of the epoch with the best validation accuracy, the lower loss among equals."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.epoch = 0
        self._parameters = parameters
        self._score = (-math.inf, -math.inf)
        self._values: list[Tensor] = []

    def offer(self, epoch: int, accuracy: float, loss: float) -> None:
        if (accuracy, -loss) > self._score:
            self.epoch, self._score = epoch, (accuracy, -loss)
            self._values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore(self) -> None:
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.copy_(value)


def _shuffled(cache: Cache, size: int, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Every picture once, in random order, each in a random view."""
    order = torch.randperm(len(cache), generator=random)
    views = torch.randint(len(cache.views), (len(cache),), generator=random)
    for rows in batches(len(cache), size):
        yield cache.take(order[rows], views[rows]), cache.targets[order[rows]]
