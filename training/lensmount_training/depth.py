"""How deep edits must go: accuracy against what the task will cost a server that shares the trunk.

A task that is as good with two edited blocks should not pay for twelve. Each depth is trained, its accuracy on the
validation pictures held against the time of the segments from its fork on, on this machine, and the cheapest within one
standard error of the best is taken (Breiman et al., 1984).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from lensmount_training.context import Context
from lensmount_training.costs import segment_seconds
from lensmount_training.evaluation.predicting import predict_adapter
from lensmount_training.features import POOLED, at_forks
from lensmount_training.packing import adapter_of
from lensmount_training.processes import current
from lensmount_training.strategies import FeatureExtraction, Problem, Strategy
from lensmount_training.strategies.choice import Option, cheapest_good


@dataclass(frozen=True)
class Trial:
    """One depth: the last segments that are edited (0: a head only), accuracy with its standard error, and the price.

    `milliseconds` a frame are what the task adds on a server whose trunk is paid for; `share` is that of a whole pass.
    """

    last: int
    accuracy: float
    error: float
    milliseconds: float
    share: float


@dataclass(frozen=True)
class Sweep:
    """All depths that were tried, the shallowest first, and the one that was taken."""

    trials: tuple[Trial, ...]
    chosen: int

    def table(self) -> Table:
        """For the terminal; the taken one is marked."""
        table = Table(title="how deep edits must go", caption="on the validation pictures; ms a frame on this machine")
        for column in ("last segments", "accuracy", "± standard error", "ms a frame", "of a pass", ""):
            table.add_column(column, justify="right" if column else "left")
        for own in self.trials:
            mark = "taken" if own.last == self.chosen else ""
            numbers = (f"{own.accuracy:.3f}", f"{own.error:.3f}", f"{own.milliseconds:.2f}", f"{own.share:.0%}")
            table.add_row(str(own.last), *numbers, mark)
        return table

    def plot(self, path: Path) -> None:
        """Accuracy against price, with standard errors: PNG or SVG by the file's ending."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - a second that only the picture should cost

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        costs = [own.milliseconds for own in self.trials]
        values, errors = zip(*((own.accuracy, own.error) for own in self.trials), strict=True)
        axes.errorbar(costs, values, errors, fmt="o-", capsize=4)
        for own in self.trials:
            text = f"last {own.last}" + (" (taken)" if own.last == self.chosen else "")
            axes.annotate(text, (own.milliseconds, own.accuracy), textcoords="offset points", xytext=(6, 6), fontsize=8)
        axes.set_xlabel("what the task adds on a shared server, ms a frame on this machine")
        axes.set_ylabel("accuracy on the validation pictures")
        axes.grid(alpha=0.3)
        axes.margins(x=0.15, y=0.2)
        figure.savefig(path, dpi=130)


def sweep(
    problem: Problem, context: Context, make: Callable[[int], Strategy], lasts: Sequence[int] | None = None
) -> Sweep:
    """Train a head alone and `make(last)` for several depths (`depths` by default), and choose.

    All activations come from one pass. Of several processes, all take the first one's choice.
    """
    backbone = problem.backbone
    wanted = sorted(set(depths(len(backbone.segments)) if lasts is None else lasts))
    forks = [len(backbone.segments) - last for last in wanted if last < len(backbone.segments)]
    at_forks(backbone, (*forks, POOLED), problem.train, FeatureExtraction().views, context)
    seconds = segment_seconds(backbone)
    trials = [_trial(problem, context, FeatureExtraction(), 0, seconds)]
    trials += [_trial(problem, context.below(f"last-{last}"), make(last), last, seconds) for last in wanted]
    options = [Option(own.milliseconds, own.accuracy, own.error) for own in trials]
    return current().same(Sweep(tuple(trials), trials[cheapest_good(options)].last))


def depths(segments: int) -> tuple[int, ...]:
    """The last 1, 2 and 4 segments, half of them, and all, as far as there are so many."""
    return tuple(sorted({last for last in (1, 2, 4, math.ceil(segments / 2), segments) if last <= segments}))


def _trial(problem: Problem, context: Context, strategy: Strategy, last: int, seconds: Sequence[float]) -> Trial:
    trained = strategy.train(problem, context)
    bar = context.progress.bar(f"validating, last {last}", len(problem.validation))
    right = _right(predict_adapter(adapter_of(problem, trained), problem.backbone, problem.validation, bar), problem)
    accuracy = float(right.mean())
    error = math.sqrt(max(accuracy * (1 - accuracy), 1 / len(right)) / len(right))
    tail = sum(seconds[len(seconds) - last :])
    return Trial(last, accuracy, error, 1e3 * tail, tail / sum(seconds))


def _right(logits: Tensor, problem: Problem) -> Tensor:
    targets = problem.validation.targets
    if problem.kind == "multi_label":
        return ((logits > 0) == (targets > 0)).to(torch.float64).mean(1)
    return (logits.argmax(1) == targets).to(torch.float64)
