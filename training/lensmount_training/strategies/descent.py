"""Gradient descent on a learner, portion by portion, keeping the best epoch; it goes on where it was killed."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lensmount_training.context import Context
from lensmount_training.memory import STEPS, Portions, Work, batches
from lensmount_training.processes import current
from lensmount_training.progress import Bar
from lensmount_training.strategies.checkpoint import Checkpoint
from lensmount_training.strategies.ema import Ema, copy_into
from lensmount_training.strategies.feed import Feed
from lensmount_training.strategies.learner import Learner
from lensmount_training.strategies.losses import Loss, hits
from lensmount_training.strategies.pixel_feed import Feeds
from lensmount_training.strategies.schedule import Schedule, too_fast
from lensmount_training.strategies.seeds import generator_at, seed_at
from lensmount_training.strategies.strategy import Problem, Settings

JUDGING = Work("validation passes", "memory", "close other programs, or edit fewer segments: a smaller --last")


@dataclass(frozen=True)
class Judgement:
    """Accuracy on the validation pictures, its standard error, and the class-weighted loss."""

    accuracy: float
    error: float
    loss: float

    def better(self, other: Judgement | None) -> bool:
        """The more accurate one; of equals that of the lower loss."""
        return other is None or (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclass(frozen=True)
class Fit:
    """The epoch that was kept, from 1, how it was judged, and all that were judged."""

    epoch: int
    judgement: Judgement
    history: tuple[Judgement, ...]


def descend(
    learner: Learner, feeds: Feeds, schedule: Schedule, problem: Problem, context: Context, settings: Settings
) -> Fit:
    """Train a learner and leave the values of its best epoch in it.

    With `context.checkpoints` every epoch is saved, and a call with the same `settings` (which must say all that
    decides the learner) goes on behind the last one, to the same bits. Raises InvalidInputError when the loss is no
    number, the memory too small or the checkpoint another training's.
    """
    descent = _Descent(learner, feeds, schedule, problem, context, settings)
    descent.resume()
    return descent.run()


class _Descent:
    """The state of one training."""

    def __init__(
        self, learner: Learner, feeds: Feeds, schedule: Schedule, problem: Problem, context: Context, settings: Settings
    ) -> None:
        self._processes = current()
        self._context = self._processes.context(context)
        self._learner = learner
        self._feeds = feeds
        self._schedule = schedule
        self._seed = problem.seed
        self._loss = Loss.of(problem, schedule.label_smoothing, weighted=schedule.class_weights).like(
            learner.parameters[0]
        )
        self._count = len(feeds.train.targets)
        self._epochs = schedule.epochs_for(self._count)
        self._per_epoch = math.ceil(self._count / schedule.batch)
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters), "lr": group.rate} for group in learner.groups],
            weight_decay=schedule.weight_decay,
        )
        self._ema = Ema(learner.parameters, schedule.ema) if schedule.ema else None
        # BatchNorm's statistics are those of what it sees at once.
        portion = schedule.batch if learner.norms else schedule.portion(learner.device.type)
        self._portions = Portions(portion, STEPS, self._context.progress.say)
        self._judged = Portions(work=JUDGING, say=self._context.progress.say)
        self._checkpoint = Checkpoint(self._context.checkpoints, problem, {**asdict(schedule), **settings})
        self._history: list[Judgement] = []
        self._best: int = 0
        self._kept: list[Tensor] = []

    def resume(self) -> None:
        """Take up what was saved last."""
        saved: dict[str, Any] | None = self._processes.same(self._checkpoint.load())
        if saved is None:
            return
        self._history = [Judgement(*own) for own in saved["history"]]
        self._best, self._kept = saved["best"], saved["kept"]
        self._portions.size = saved["micro_batch"]
        if not self._over:
            copy_into(self._learner.state, saved["state"])
            self._optimizer.load_state_dict(saved["optimizer"])
            if self._ema:
                copy_into(self._ema.values, saved["ema"])

    def run(self) -> Fit:
        """The epochs that are left, and the best one put in place."""
        steps = self._epochs * self._per_epoch
        bar = self._context.progress.bar("training", steps)
        bar.advance(len(self._history) * self._per_epoch)
        while not self._over:
            epoch = len(self._history)
            self._learn(epoch, steps, bar)
            judgement = self._judge()
            self._keep(judgement)
            self._save()
            self._context.log("validation_accuracy", judgement.accuracy, (epoch + 1) * self._per_epoch)
            self._context.log("validation_loss", judgement.loss, (epoch + 1) * self._per_epoch)
            bar.advance(0, f"epoch {epoch + 1}, validation {judgement.accuracy:.3f}")
        copy_into(self._learner.state, self._kept)
        return Fit(self._best, self._history[self._best - 1], tuple(self._history))

    @property
    def _over(self) -> bool:
        done = len(self._history)
        stale = self._schedule.patience and self._best and done - self._best >= self._schedule.patience
        return done >= self._epochs or bool(stale)

    def _learn(self, epoch: int, steps: int, bar: Bar) -> None:
        """Every picture once, in random order."""
        order = torch.randperm(self._count, generator=generator_at(self._seed, epoch))
        for place, rows in enumerate(batches(self._count, self._schedule.batch)):
            step = epoch * self._per_epoch + place
            factor = self._schedule.factor(step, steps)
            for own, group in zip(self._optimizer.param_groups, self._learner.groups, strict=True):
                own["lr"] = group.rate * factor
                self._context.log(f"learning_rate/{group.name}", own["lr"], step)
            loss = self._step(order[rows], seed_at(self._seed, epoch, place))
            self._optimizer.step()
            if self._ema:
                self._ema.update(step)
            self._context.log("loss", loss, step)
            bar.advance()

    def _step(self, rows: Tensor, seed: int) -> float:
        """The gradient of the mean loss over a batch, in the parameters; the loss."""
        feed, mine = self._feeds.train, self._processes.mine(len(rows))
        inputs, targets = feed.batch(rows, seed, mine)
        mass = self._loss.mass(feed.targets[rows])

        def portion(own: slice) -> Tensor:
            logits = self._logits(feed, inputs[own])
            loss = self._loss.total(logits, targets[own].to(logits.device)) / mass
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        with self._learner.learning():
            parts = self._portions.run(len(mine), portion, self._optimizer.zero_grad)
        loss = self._learner.parameters[0].new_zeros(1) + sum(parts)
        self._share(loss)
        self._check(float(loss))
        return float(loss)

    def _share(self, loss: Tensor) -> None:
        """Add up gradients and loss over all processes; a process without pictures has none of its own."""
        if self._processes.count == 1:
            return
        for parameter in self._learner.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._processes.add([loss, *(p.grad for p in self._learner.parameters if p.grad is not None)])

    @torch.no_grad()
    def _judge(self) -> Judgement:
        """Of the pictures as they are; of the averaged parameters, where there are any."""
        feed, processes = self._feeds.validation, self._processes
        logits = torch.zeros(len(feed.targets), len(self._loss.weights), device=self._learner.device)
        with self._ema.in_place() if self._ema else nullcontext():
            for place, rows in enumerate(batches(len(feed.targets))):
                if place % processes.count == processes.rank:
                    logits[rows] = self._answers(feed, rows)
        processes.add([logits])
        targets = feed.targets.to(logits.device)
        right = hits(self._loss.kind, logits, targets)
        loss = float(self._loss.mean(logits, targets))
        self._check(loss)
        return Judgement(float(right.mean()), float(right.std(correction=0)) / len(right) ** 0.5, loss)

    def _answers(self, feed: Feed, rows: slice) -> Tensor:
        """Logits of some pictures as they are, in smaller portions where the memory is full."""

        def portion(own: slice) -> Tensor:
            return self._logits(feed, feed.plain(slice(rows.start + own.start, rows.start + own.stop)))

        return torch.cat(list(self._judged.walk(rows.stop - rows.start, portion)))

    def _logits(self, feed: Feed, inputs: Tensor) -> Tensor:
        with self._precision():
            return self._learner.tail(feed.enter(inputs)).float()

    def _precision(self) -> AbstractContextManager[Any]:
        kind = self._learner.device.type
        wanted = self._schedule.bf16 if self._schedule.bf16 is not None else kind == "cuda"
        return torch.autocast(kind, torch.bfloat16) if wanted else nullcontext()

    def _keep(self, judgement: Judgement) -> None:
        best = self._history[self._best - 1] if self._best else None
        self._history.append(judgement)
        if judgement.better(best):
            self._best = len(self._history)
            with self._ema.in_place() if self._ema else nullcontext():
                self._kept = [tensor.detach().clone() for tensor in self._learner.state]

    def _save(self) -> None:
        state: dict[str, Any] = {
            "history": [(own.accuracy, own.error, own.loss) for own in self._history],
            "best": self._best,
            "kept": self._kept,
            "micro_batch": self._portions.size,
        }
        if not self._over:
            state["state"] = [tensor.detach() for tensor in self._learner.state]
            state["optimizer"] = self._optimizer.state_dict()
            state["ema"] = self._ema.values if self._ema else []
        self._checkpoint.save(state)

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise too_fast({group.name: group.rate for group in self._learner.groups})
