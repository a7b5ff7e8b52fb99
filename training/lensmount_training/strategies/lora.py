"""LoRA (arXiv 2106.09685) on the last segments, by PEFT, from cached activations at the fork."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.lora import MAX_RANK
from lensmount_adapters.manifest import Edit
from lensmount_training.context import Context
from lensmount_training.features import PLAIN, POOLED, at_forks, check_views
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.choice import Option, cheapest_good
from lensmount_training.strategies.descent import Fit, descend
from lensmount_training.strategies.ema import copy_into
from lensmount_training.strategies.feature_extraction import probed
from lensmount_training.strategies.losses import Loss
from lensmount_training.strategies.pixel_feed import Feeds, feeds
from lensmount_training.strategies.schedule import Schedule, check_rate
from lensmount_training.strategies.strategy import Problem, Trained, settings_of
from lensmount_training.strategies.targets import TargetKind, lora_targets
from lensmount_training.strategies.tuned import Tuned, adapt, full_parameters

# Tried when no rank is given; alpha is twice the rank then, so that all start with edits of the same scale.
RANKS = (4, 8, 16)


@dataclass(frozen=True)
class Lora:
    """Low-rank edits of the last `last_segments` segments (None: half of them) and a linear head.

    Without a `rank` those of `RANKS` are trained, and the lowest within one standard error of the best on the
    validation pictures is taken. `alpha` is twice the rank unless given; `targets` are explained in `lora_targets`.
    Everything else stays as it is, BatchNorm statistics included. A probe on the same views is the floor that the
    edits must beat; its accuracy goes into the metrics, and so does how few numbers are trained.
    """

    name: ClassVar[str] = "lora"

    rank: int | None = None
    alpha: float | None = None
    last_segments: int | None = None
    targets: TargetKind = "all-linear"
    views: tuple[str, ...] = ("identity", "hflip")
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a number that can not work."""
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            fix = f"give --rank a number from 1 to {MAX_RANK}"
            raise InvalidInputError("out of range", field="rank", value=self.rank, fix=fix)
        if self.alpha is not None:
            check_rate("alpha", self.alpha, "give a number such as twice the rank")

    def check(self, backbone: Backbone) -> None:
        """Raise InvalidInputError for what does not fit the backbone, before anything is trained."""
        check_views(backbone, self.views)
        lora_targets(backbone, self.depth(backbone), self.targets)

    def train(self, problem: Problem, context: Context) -> Trained:
        """Feed the tail from the fork on, train it for every rank in question, keep the best epoch of the chosen."""
        backbone = problem.backbone
        targets = lora_targets(backbone, self.depth(backbone), self.targets)
        ranks = RANKS if self.rank is None else (self.rank,)
        floor = self._floor(problem, min(targets), context)
        eaten = feeds(problem, min(targets), self.views, self.augment, context)
        trials = [self._trial(problem, targets, rank, eaten, context) for rank in ranks]
        judged = [fit.judgement for fit, _ in trials]
        options = [Option(rank, own.accuracy, own.error) for rank, own in zip(ranks, judged, strict=True)]
        chosen = cheapest_good(options)
        rank, (fit, values) = ranks[chosen], trials[chosen]
        tuned = self._adapted(problem, targets, rank)
        copy_into(tuned.learner(self.schedule.learning_rate).state, values)
        metrics = {
            "probe_validation_accuracy": floor,
            "best_epoch": fit.epoch,
            "trainable_parameters": tuned.count,
            "full_parameters": full_parameters(backbone, len(problem.labels)),
        }
        if len(ranks) > 1:
            metrics |= {f"rank_{own.cost:.0f}_validation_accuracy": own.accuracy for own in options}
        return Trained(
            tensors=tuned.tensors(),
            lora=tuned.config(),
            forward=tuned.merge(),
            settings={**settings_of(self), **self._shape(backbone, rank)},
            edits=tuple(Edit(segment=backbone.segments[index].name, kind="lora") for index in sorted(targets)),
            metrics=metrics,
        )

    def _trial(
        self, problem: Problem, targets: Mapping[int, tuple[str, ...]], rank: int, eaten: Feeds, context: Context
    ) -> tuple[Fit, list[Tensor]]:
        """Train at one rank; how it was judged, and what was learned, without the model around it."""
        learner = self._adapted(problem, targets, rank).learner(self.schedule.learning_rate)
        settings = {**settings_of(self), **self._shape(problem.backbone, rank)}
        fit = descend(learner, eaten, self.schedule, problem, context.below(f"rank-{rank}"), settings)
        return fit, [tensor.detach() for tensor in learner.state]

    def _adapted(self, problem: Problem, targets: Mapping[int, tuple[str, ...]], rank: int) -> Tuned:
        alpha = float(self._shape(problem.backbone, rank)["alpha"])
        return adapt(problem, targets, rank, alpha, keys=self.targets != "q+v")

    def _shape(self, backbone: Backbone, rank: int) -> dict[str, int | float]:
        alpha = 2.0 * rank if self.alpha is None else self.alpha
        return {"rank": rank, "alpha": alpha, "last_segments": self.depth(backbone)}

    def depth(self, backbone: Backbone) -> int:
        """How many of the last segments are edited; raises InvalidInputError for more than there are."""
        count = len(backbone.segments)
        last = math.ceil(count / 2) if self.last_segments is None else self.last_segments
        if not 1 <= last <= count:
            fix = f"give --last a number from 1 to {count}"
            raise InvalidInputError(f"{backbone.name} has {count} segments", field="last_segments", value=last, fix=fix)
        return last

    def _floor(self, problem: Problem, fork: int, context: Context) -> float:
        """Validation accuracy of a head alone; what training caches anyway is made in the same pass."""
        forks = (fork, POOLED) if fork and not self.augment.anything else (POOLED,)
        for own, views in ((problem.train, self.views), (problem.validation, PLAIN)):
            at_forks(problem.backbone, forks, own, views, context)
        loss = Loss.of(problem, weighted=self.schedule.class_weights)
        return probed(problem, self.views, loss, context).validation_accuracy
