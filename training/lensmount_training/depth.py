"""How deep to edit: accuracy against what a task costs a shared server, measured for several depths.

The deepest edit is seldom worth its price. Of all depths the cheapest is taken that the validation pictures can not
tell from the best: within one standard error of it (Breiman et al., Classification and Regression Trees, 1984).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from rich.table import Table
from torch import Tensor

from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.costs import BATCH, Times, marginal_seconds, segment_times
from lensmount_training.evaluation.predicting import predict
from lensmount_training.features import PLAIN, POOLED, at_forks
from lensmount_training.strategies.choice import Option, cheapest_good
from lensmount_training.strategies.losses import hits
from lensmount_training.strategies.strategy import Problem, Strategy, Trained
from lensmount_training.strategies.whole import blocks

Make = Callable[[int], Strategy]


@dataclass(frozen=True)
class Depth:
    """The last `last` segments edited.

    Validation `accuracy` (the mean over seeds), its standard `error`, and `seconds` that a batch of 8 rows of such a
    task adds to a server of this machine.
    """

    last: int
    accuracy: float
    error: float
    seconds: float
    trained: Trained


@dataclass(frozen=True)
class Row:
    """A depth as it is told: edited segments, validation accuracy, its standard error, the cost of a batch, numbers."""

    segments: int
    accuracy: float
    error: float
    ms: float
    parameters: int
    taken: bool


@dataclass(frozen=True)
class Sweep:
    """All depths in the order of their cost, and which of them is taken."""

    depths: tuple[Depth, ...]
    chosen: int

    @property
    def best(self) -> Depth:
        """The cheapest that is good enough."""
        return self.depths[self.chosen]

    @property
    def rows(self) -> tuple[Row, ...]:
        """What was measured, in the order of cost."""
        return tuple(
            Row(own.last, own.accuracy, own.error, 1000 * own.seconds, own.trained.parameters, place == self.chosen)
            for place, own in enumerate(self.depths)
        )

    def table(self) -> Table:
        """For people."""
        table = Table(title="validation accuracy by depth")
        for column in ("edited segments", "accuracy", "± 1 SE", f"ms a batch of {BATCH}", "parameters", ""):
            table.add_column(column, justify="right")
        for own in self.rows:
            row = (str(own.segments), f"{own.accuracy:.3f}", f"{own.error:.3f}", f"{own.ms:.1f}")
            table.add_row(*row, f"{own.parameters:,}", "taken" if own.taken else "")
        return table

    @cached_property
    def picture(self) -> bytes:
        """Accuracy against cost as a PNG."""
        from matplotlib.figure import Figure  # noqa: PLC0415 half a second, for those who want a picture

        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        cost = [1000 * own.seconds for own in self.depths]
        accuracy = [own.accuracy for own in self.depths]
        axes.errorbar(cost, accuracy, [own.error for own in self.depths], fmt="o-", capsize=3, color="tab:blue")
        top = max(self.depths, key=lambda own: own.accuracy)
        axes.axhline(top.accuracy - top.error, linestyle=":", color="grey", label="one standard error below the best")
        taken = self.best
        (ring,) = axes.plot([1000 * taken.seconds], [taken.accuracy], "o", color="tab:red", label="taken")
        ring.set(markersize=14, fillstyle="none")
        for own, x in zip(self.depths, cost, strict=True):
            axes.annotate(f"{own.last}", (x, own.accuracy), textcoords="offset points", xytext=(6, -12))
        axes.set_xlabel(f"marginal cost of the task, ms a batch of {BATCH}")
        axes.set_ylabel("validation accuracy")
        axes.set_title("numbers: how many of the last segments are edited")
        axes.legend(loc="lower right")
        made = io.BytesIO()
        figure.savefig(made, dpi=120, format="png")
        return made.getvalue()


def usual_depths(backbone: Backbone) -> tuple[int, ...]:
    """How many of the last segments make 0 (the head alone), 1, 2, 4, half and all of the blocks."""
    count, steps = len(backbone.segments), blocks(backbone)
    wanted = {own for own in (1, 2, 4, (len(steps) + 1) // 2, len(steps)) if own <= len(steps)}
    return (0, *sorted(count - steps[own - 1] for own in wanted))


def sweep(
    problem: Problem,
    context: Context,
    make: Make,
    lasts: Sequence[int],
    seeds: Sequence[int] = (),
    views: Sequence[str] = ("identity", "hflip"),
) -> Sweep:
    """Train with the last m segments edited for every m of `lasts`; `make` gives the strategy for m.

    With several `seeds` (otherwise the problem's) each depth is trained with each of them; the adapter that is kept
    is the first one's. What the frozen prefixes give for `views` is computed in one pass for all depths.
    """
    _prepare(problem, lasts, views, context)
    plain = segment_times(problem.backbone)
    found = [
        _depth(problem, context.below(f"last-{last}"), make(last), last, seeds or (problem.seed,), plain)
        for last in lasts
    ]
    depths = tuple(sorted(found, key=lambda own: (own.seconds, own.last)))
    return Sweep(depths, cheapest_good([Option(own.seconds, own.accuracy, own.error) for own in depths]))


def _prepare(problem: Problem, lasts: Sequence[int], views: Sequence[str], context: Context) -> None:
    """Cache what enters every fork, in one pass."""
    count = len(problem.backbone.segments)
    forks = [POOLED, *(count - last for last in lasts if 0 < last < count)]
    at_forks(problem.backbone, forks, problem.train, views, context)
    at_forks(problem.backbone, forks, problem.validation, PLAIN, context)


def _depth(
    problem: Problem, context: Context, strategy: Strategy, last: int, seeds: Sequence[int], plain: Times
) -> Depth:
    runs = [strategy.train(replace(problem, seed=seed), context.below(f"seed-{seed}")) for seed in seeds]
    right = torch.stack([_right(problem, own, context) for own in runs])
    return Depth(
        last=last,
        accuracy=float(right.mean()),
        error=standard_error(right),
        seconds=marginal_seconds(problem.backbone, runs[0], plain),
        trained=runs[0],
    )


def standard_error(right: Tensor) -> float:
    """Of the mean of what was right, (seeds, pictures): other pictures and other seeds would have given another."""
    seeds, pictures = right.shape
    of_pictures = float(right.mean(0).var(correction=0)) / pictures
    of_seeds = float(right.mean(1).var()) / seeds if seeds > 1 else 0.0
    return math.sqrt(of_pictures + of_seeds)


def _right(problem: Problem, trained: Trained, context: Context) -> Tensor:
    """What is right of every validation picture, float64 (n,), the way a server answers."""
    bar = context.progress.bar("validating", len(problem.validation))
    logits = predict(trained.forward, problem.backbone, problem.validation, bar)
    return hits(problem.kind, logits, problem.validation.targets)
