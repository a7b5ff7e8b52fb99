"""Fine-tuning: the head, then block by block from the top (ULMFiT, arXiv 1801.06146), as long as it helps.

Every step starts from the best values before it, and stays only if the validation pictures say so: otherwise its
values are thrown away and no deeper block is touched. The result replaces the segments that were unfrozen, or is
brought into LoRA's form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.features import PLAIN, check_views, pooled
from lensmount_training.processes import current
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import Fit, descend
from lensmount_training.strategies.ema import copy_into
from lensmount_training.strategies.feed import PooledFeed
from lensmount_training.strategies.learner import Group, Learner
from lensmount_training.strategies.low_rank import as_low_rank
from lensmount_training.strategies.pixel_feed import Feeds, feeds
from lensmount_training.strategies.schedule import Schedule, check_rate, check_whole
from lensmount_training.strategies.strategy import Problem, Trained, settings_of
from lensmount_training.strategies.whole import Whole, blocks, randomise, whole

# Blocks from the top that may learn faster than what lies below them.
SHALLOW = 2


@dataclass(frozen=True)
class FineTune:
    """Replaced segments, unfrozen block by block, each with its own learning rate.

    The head learns at `schedule.learning_rate`, the last two blocks at `shallow_rate`, what lies below at `deep_rate`;
    `layer_decay` lowers the rate with every block further from the top (arXiv 2106.08254). `last_segments` is how
    deep unfreezing may go (None: half of the segments). `full` unfreezes everything at once, all of it at `deep_rate`.
    BatchNorm stays on its pretrained statistics unless `batch_norm`. `as_lora` gives the result as LoRA, of the
    lowest rank that loses no more than `max_loss` of validation accuracy; where there is none it stays as it is.
    """

    name: ClassVar[str] = "finetune"

    last_segments: int | None = None
    full: bool = False
    batch_norm: bool = False
    head_epochs: int = 20
    shallow_rate: float = 1e-4
    deep_rate: float = 1e-5
    layer_decay: float = 1.0
    as_lora: bool = False
    max_loss: float = 0.005
    views: tuple[str, ...] = ("identity", "hflip")
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = field(default_factory=lambda: Schedule(learning_rate=1e-3))

    def __post_init__(self) -> None:
        """Raise InvalidInputError for a number that can not work."""
        for name in ("shallow_rate", "deep_rate"):
            check_rate(name, getattr(self, name))
        check_whole("head_epochs", self.head_epochs, least=1)
        if not 0 < self.layer_decay <= 1:
            fix = "give a share such as 0.75, or 1 for none"
            raise InvalidInputError("above 0, at most 1 expected", field="layer_decay", value=self.layer_decay, fix=fix)

    def check(self, backbone: Backbone) -> None:
        """Raise InvalidInputError for what does not fit the backbone, before anything is trained."""
        check_views(backbone, self.views)
        if not self.forks(backbone):
            message = f"nothing to unfreeze in the last {self.last_segments} of {len(backbone.segments)} segments"
            fix = "give a larger --last"
            raise InvalidInputError(message, field="last_segments", value=self.last_segments, fix=fix)

    def train(self, problem: Problem, context: Context) -> Trained:
        """Train the head, then deeper and deeper, and keep the last step that helped."""
        _check_processes(batch_norm=self.batch_norm)
        copied = whole(problem.backbone, len(problem.labels))
        fit = self._head(copied, problem, context.below("head"))
        fork, accuracy = len(copied.segments), fit.judgement.accuracy
        for deeper in self.forks(problem.backbone):
            before = [tensor.clone() for tensor in copied.model.state_dict().values()]
            own = self._step(copied, deeper, problem, context.below(f"from-{problem.backbone.segments[deeper].name}"))
            if not own.judgement.better(fit.judgement):
                copy_into(list(copied.model.state_dict().values()), before)
                break
            fork, fit = deeper, own
        return self._trained(
            copied, fork, problem, {"head_validation_accuracy": accuracy, "best_epoch": fit.epoch}, context
        )

    def forks(self, backbone: Backbone) -> tuple[int, ...]:
        """Where each step of unfreezing reaches down to, from the top; raises InvalidInputError for a wrong depth."""
        count = len(backbone.segments)
        if self.full:
            return (0,)
        last = (count + 1) // 2 if self.last_segments is None else self.last_segments
        if not 1 <= last <= count:
            fix = f"give --last a number from 1 to {count}"
            raise InvalidInputError(f"{backbone.name} has {count} segments", field="last_segments", value=last, fix=fix)
        return tuple(index for index in blocks(backbone) if index >= count - last)

    def _head(self, copied: Whole, problem: Problem, context: Context) -> Fit:
        """The head alone, on pooled features."""
        backbone = problem.backbone
        train, validation = (
            PooledFeed(pooled(backbone, own, views, context), own.targets, backbone.device)
            for own, views in ((problem.train, self.views), (problem.validation, PLAIN))
        )
        schedule = replace(self.schedule, epochs=self.head_epochs)
        learner = Learner(copied.head, (self._head_group(copied),))
        return descend(learner, Feeds(train, validation), schedule, problem, context, settings_of(self))

    def _step(self, copied: Whole, fork: int, problem: Problem, context: Context) -> Fit:
        """All from `fork` on, from where the step before left it."""
        copied.freeze()
        groups = (self._head_group(copied), *self._groups(copied, fork, problem.backbone))
        learner = Learner(copied.tail(fork), groups, copied.norms(fork) if self.batch_norm else ())
        eaten = feeds(problem, fork, self.views, self.augment, context)
        return descend(learner, eaten, self.schedule, problem, context, {**settings_of(self), "fork": fork})

    def _head_group(self, copied: Whole) -> Group:
        copied.head.requires_grad_()
        return Group("head", self.schedule.learning_rate, tuple(copied.head.parameters()))

    def _groups(self, copied: Whole, fork: int, backbone: Backbone) -> Iterator[Group]:
        """A group for every segment that learns, from the top."""
        steps = blocks(backbone)
        for index in reversed(range(fork, len(copied.segments))):
            depth = next((place for place, step in enumerate(steps) if index >= step), len(steps) - 1)
            rate = self.shallow_rate if depth < SHALLOW and not self.full else self.deep_rate
            parameters = copied.learnable(index)
            if parameters:
                yield Group(copied.segments[index].name, rate * self.layer_decay**depth, parameters)

    def _trained(
        self, copied: Whole, fork: int, problem: Problem, metrics: dict[str, float], context: Context
    ) -> Trained:
        copied.freeze()
        tensors = copied.tensors(fork)
        metrics["trainable_parameters"] = sum(own.numel() for own in tensors.values() if own.is_floating_point())
        trained = Trained(tensors, _plain(copied), settings_of(self), copied.edits(fork), metrics=metrics)
        if not (self.as_lora and trained.edits):
            return trained
        try:
            return as_low_rank(trained, problem, self.max_loss)
        except InvalidInputError as error:
            context.progress.say(f"The result stays in the form of replaced segments: {error.message}.")
            return trained


@dataclass(frozen=True)
class FromScratch:
    """The same model from random weights, all of it trained from pixels: what pretraining is worth."""

    name: ClassVar[str] = "scratch"

    views: tuple[str, ...] = ("identity", "hflip")
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=30, learning_rate=1e-3, weight_decay=0.05))

    def train(self, problem: Problem, context: Context) -> Trained:
        """Draw weights from the seed, train everything, BatchNorm statistics included."""
        _check_processes(batch_norm=True)
        copied = whole(problem.backbone, len(problem.labels))
        randomise(copied.model, problem.seed)
        copied.model.requires_grad_()
        parameters = tuple(copied.model.parameters())
        group = Group("all", self.schedule.learning_rate, parameters)
        learner = Learner(copied.tail(0), (group,), copied.norms(0))
        eaten = feeds(problem, 0, self.views, self.augment, context)
        fit = descend(learner, eaten, self.schedule, problem, context, settings_of(self))
        copied.freeze()
        return Trained(
            copied.tensors(0),
            _plain(copied),
            settings_of(self),
            copied.edits(0),
            metrics={"best_epoch": fit.epoch, "trainable_parameters": sum(p.numel() for p in parameters)},
        )


def _check_processes(*, batch_norm: bool) -> None:
    """Raise InvalidInputError when statistics would have to be those of a batch that no process sees as a whole."""
    if batch_norm and current().count > 1:
        fix = "train in one process, or leave BatchNorm on its statistics"
        raise InvalidInputError("each process sees a part of a batch", field="batch_norm", value=True, fix=fix)


def _plain(copied: Whole) -> nn.Module:
    model: nn.Module = copied.model
    return model.eval()
