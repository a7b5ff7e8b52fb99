"""The page: a table and a picture a data set, with intervals, and what follows from them in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from lensmount_training.economy.cells import ALL, Cell, Measured

WORDS = {
    "features": "feature extraction",
    "lora": "LoRA (last half)",
    "finetune": "progressive unfreezing",
    "full": "full fine-tuning",
    "scratch": "from scratch",
}
FLOOR = "features"


@dataclass(frozen=True)
class Figure:
    """Mean of several seeds with its 95 % interval (Student's t); no interval of one seed."""

    value: float
    half: float
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether a difference is above nothing by more than its interval."""
        return self.value > self.half

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.half:.1f}" if self.seeds > 1 else f"{100 * self.value:.1f}"


@dataclass(frozen=True, eq=False)
class Grid:
    """The measurements of one data set, by strategy and labels."""

    data: str
    strategies: tuple[str, ...]
    labels: tuple[int, ...]
    cells: Mapping[tuple[str, int], tuple[Measured, ...]]

    def figure(self, strategy: str, labels: int, name: str) -> Figure | None:
        """A figure of a strategy with so many labels, None where it was not measured."""
        own = self.cells.get((strategy, labels), ())
        return figure([getattr(measured, name) for measured in own]) if own else None

    def gain(self, strategy: str, labels: int) -> Figure | None:
        """Accuracy over the floor, seed by seed."""
        floor = {own.cell.seed: own.accuracy for own in self.cells.get((FLOOR, labels), ())}
        own = [m.accuracy - floor[m.cell.seed] for m in self.cells.get((strategy, labels), ()) if m.cell.seed in floor]
        return figure(own) if own else None

    def head(self, labels: int) -> str:
        """A column's title."""
        if labels != ALL:
            return str(labels)
        used = {own.used for (_, count), cell in self.cells.items() if count == ALL for own in cell}
        return f"all ({max(used)})" if used else "all"


def figure(values: Sequence[float]) -> Figure:
    """Of at least one value."""
    if len(values) < 2:
        return Figure(values[0], math.nan, 1)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Figure(mean(values), half, len(values))


def grids(measured: Mapping[Cell, Measured]) -> list[Grid]:
    """One for each data set, strategies from the floor up."""
    found = []
    for data in sorted({cell.data for cell in measured}):
        own = {cell: value for cell, value in measured.items() if cell.data == data}
        cells: dict[tuple[str, int], tuple[Measured, ...]] = {}
        for cell, value in sorted(own.items()):
            cells[cell.strategy, cell.labels] = (*cells.get((cell.strategy, cell.labels), ()), value)
        strategies = tuple(name for name in WORDS if any(cell.strategy == name for cell in own))
        labels = tuple(sorted({cell.labels for cell in own}, key=lambda count: count or math.inf))
        found.append(Grid(data, strategies, labels, cells))
    return found


def markdown(found: Sequence[Grid], title: str, how: str) -> str:
    """The whole page."""
    return "\n\n".join([f"# {title}", how, *(part for grid in found for part in _sections(grid))]) + "\n"


def plot(grid: Grid, path: Path) -> None:
    """Accuracy by labels, a line a strategy, its interval behind it; PNG or SVG by the file's ending.

    No interval of two seeds: it would hide all the others.
    """
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - seconds that only the picture should cost

    canvas = Canvas(figsize=(8, 4.6), layout="constrained")
    axes = canvas.subplots()
    places = range(len(grid.labels))
    for strategy in grid.strategies:
        figures = [grid.figure(strategy, labels, "accuracy") for labels in grid.labels]
        at = [place for place, own in zip(places, figures, strict=True) if own]
        values = [own.value for own in figures if own]
        halves = [own.half if own.seeds > 2 else 0.0 for own in figures if own]
        (line,) = axes.plot(at, values, marker="o", label=WORDS[strategy])
        low, high = ([min(max(v + sign * h, 0), 1) for v, h in zip(values, halves, strict=True)] for sign in (-1, 1))
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xticks(list(places), [grid.head(labels) for labels in grid.labels])
    axes.set_xlabel("labels a class")
    axes.set_ylabel("accuracy on the test pictures")
    axes.set_title(grid.data)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    canvas.savefig(path, dpi=130)


def _sections(grid: Grid) -> list[str]:
    heads = [grid.head(labels) for labels in grid.labels]
    return [
        f"## {grid.data}",
        f"![Accuracy by labels a class](images/label-economy-{grid.data}.png)",
        _table(grid, heads, "accuracy", "accuracy, %"),
        _table(grid, heads, "macro_f1", "macro F1, %"),
        _verdict(grid),
    ]


def _table(grid: Grid, heads: Sequence[str], name: str, title: str) -> str:
    lines = [f"| {title} | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for strategy in grid.strategies:
        cells = [grid.figure(strategy, labels, name) for labels in grid.labels]
        lines.append(f"| {WORDS[strategy]} | {' | '.join(str(own) if own else '' for own in cells)} |")
    return "\n".join(lines)


def _verdict(grid: Grid) -> str:
    """What beats the floor by more than its interval, the best first, and all that does not, a sentence a column."""
    return "\n".join(f"- {grid.head(labels)} labels: {_compared(grid, labels)}" for labels in grid.labels)


def _compared(grid: Grid, labels: int) -> str:
    gains = {name: grid.gain(name, labels) for name in grid.strategies if name != FLOOR}
    known = {name: own for name, own in gains.items() if own and own.seeds > 1}
    if not known:
        return "one seed says nothing."
    better = sorted((name for name in known if known[name].clear), key=lambda name: -known[name].value)
    others = [WORDS[name] for name in known if name not in better]
    if not better:
        nothing = "nothing beats feature extraction by more than the spread of the seeds"
        return f"{nothing}: not {', not '.join(others)}."
    best = f"{WORDS[better[0]]} beats feature extraction by {known[better[0]]} points"
    also = f", {_and([WORDS[name] for name in better[1:]])} too" if better[1:] else ""
    if not others:
        return f"{best}{also}."
    return (
        f"{best}{also}; {_and(others)} {'does' if len(others) == 1 else 'do'} not by more than the spread of the seeds."
    )


def _and(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
