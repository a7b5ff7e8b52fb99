"""`--dry-run`: what a run would do and how long it would take, without doing it.

Nothing is trained. A few pictures are decoded and one batch is run, segment by segment; the rest is arithmetic, so the
estimate is of this machine as busy as it is now.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmount.errors import LensmountError
from lensmount_adapters.backbones import Backbone
from lensmount_training.checks import check_fits, check_settings
from lensmount_training.chooser import BASELINE, FINETUNE, LORA, propose
from lensmount_training.costs import BATCH, segment_times
from lensmount_training.data.listing import Listing
from lensmount_training.data.reading import check_counts
from lensmount_training.depth import usual_depths
from lensmount_training.menu import strategy_of
from lensmount_training.places import choose_out
from lensmount_training.progress import Progress
from lensmount_training.recipe import AUTO, Recipe
from lensmount_training.run_folder import RunFolder, check_unfinished
from lensmount_training.split import TEST_SHARE, VALIDATION_SHARE
from lensmount_training.strategies import FineTune, Lora
from lensmount_training.strategies.lora import RANKS
from lensmount_training.workflow import listed, open_backbone

SAMPLE = 8
# A step backward costs about two forward.
BOTH_WAYS = 3
# cleanvision's looks at a picture, on one core.
AUDIT_S = 0.02


@dataclass(frozen=True)
class Step:
    """One stage of a run, what it does, and its seconds; not `certain` where an earlier stage decides about it."""

    name: str
    what: str
    seconds: float
    certain: bool = True


@dataclass(frozen=True)
class Plan:
    """All stages of a run in their order, and where its package would go."""

    out: Path
    backbone: str
    form: str
    pictures: dict[str, int]
    skipped: int
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> tuple[float, float]:
        """At least, and with all that may be tried."""
        return sum(step.seconds for step in self.steps if step.certain), sum(step.seconds for step in self.steps)


def plan_of(recipe: Recipe, out: Path | None, progress: Progress, *, fresh: bool = False) -> Plan:
    """Plan a run; raises what the run itself would raise for data, settings and places that can not work."""
    check_settings(recipe)
    target = choose_out(recipe.task, out, progress)
    if not fresh:
        check_unfinished(RunFolder(target), recipe)
    listing = listed(recipe)
    backbone = open_backbone(recipe, progress)
    check_fits(recipe, backbone)
    counts = Counter(label for entry in listing.entries for label in entry.labels)
    check_counts(listing.labels, counts, "pictures")
    return Plan(
        out=target,
        backbone=backbone.name,
        form=listing.form,
        pictures={label: counts[label] for label in listing.labels},
        skipped=len(listing.skipped),
        steps=tuple(_steps(recipe, listing, min(counts[label] for label in listing.labels), backbone)),
    )


def show(plan: Plan, console: Console, *, as_json: bool) -> None:
    """A table for people, one object for machines."""
    low, high = plan.seconds
    if as_json:
        click.echo(json.dumps({**asdict(plan), "out": str(plan.out), "seconds_low": low, "seconds_high": high}))
        return
    counts = ", ".join(f"{label} {count}" for label, count in plan.pictures.items())
    console.print(Text(f"{plan.form}: {counts}; {plan.skipped} skipped"), soft_wrap=True)
    table = Table(title=Text(f"{plan.out}, on {plan.backbone}"))
    for column in ("stage", "what", "time"):
        table.add_column(column, justify="right" if column == "time" else "left")
    for step in plan.steps:
        table.add_row(step.name, Text(step.what), ("" if step.certain else "perhaps ") + _spoken(step.seconds))
    console.print(table)
    span = _spoken(low) if math.isclose(low, high) else f"{_spoken(low)} to {_spoken(high)}"
    console.print(Text(f"All of it: {span} on this machine as it is now. Nothing was trained."))


def _steps(recipe: Recipe, listing: Listing, smallest: int, backbone: Backbone) -> list[Step]:
    count = len(listing.entries)
    sealed = math.ceil(TEST_SHARE * count)
    validation = round(VALIDATION_SHARE * (count - sealed))
    train = count - sealed - validation
    seconds = [own / BATCH for own in segment_times(backbone, repetitions=3).segments]
    whole = sum(seconds)
    views = len(recipe.views)
    steps = [Step("read", f"{count} pictures, each opened once", count * _decoding(listing))]
    if recipe.audit:
        steps.append(Step("audit", "duplicates, faults, label errors, domain", count * (AUDIT_S + whole)))
    steps.append(Step("split", f"{sealed} sealed, {validation} to choose by, {train} to train on", 0.0))
    passes = (train * views + validation) * whole
    steps.append(Step(BASELINE, f"a head on the frozen backbone, {views} views: the floor", passes))
    for name in _names(recipe, smallest):
        what, took = _descent(recipe, name, train, backbone, seconds)
        certain = recipe.strategy != AUTO or bool(propose(smallest, None).names)
        steps.append(Step(name, what, took + passes, certain))
    steps.append(Step("sealed set", "opened once, after everything was chosen", sealed * whole))
    return steps


def _names(recipe: Recipe, smallest: int) -> Sequence[str]:
    if recipe.strategy != AUTO:
        return () if recipe.strategy == BASELINE else (recipe.strategy,)
    return propose(smallest, None).names or (FINETUNE, LORA)


def _descent(recipe: Recipe, name: str, train: int, backbone: Backbone, seconds: Sequence[float]) -> tuple[str, float]:
    """Epochs of the tails that a strategy trains, one for every depth and rank that it tries."""
    last = recipe.last if isinstance(recipe.last, int) else None
    strategy = strategy_of(recipe, name, last)
    if not isinstance(strategy, FineTune | Lora):
        return "", 0.0
    epochs, depths, ranks = strategy.schedule.epochs_for(train), [last or math.ceil(len(seconds) / 2)], 1
    if isinstance(strategy, Lora):
        depths = [own for own in usual_depths(backbone) if own] if recipe.measures_depth else depths
        ranks = len(RANKS) if strategy.rank is None and recipe.tries_ranks else 1
    what = f"{epochs} epochs of the last {_or([str(own) for own in depths])} of {len(seconds)} segments"
    tails = depths[:-1] + [depths[-1]] * ranks
    took = sum(sum(seconds[-own:]) for own in tails) * BOTH_WAYS * epochs * train
    return f"{what}, at {ranks} ranks" if ranks > 1 else what, took


def _or(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _decoding(listing: Listing) -> float:
    """Seconds that a picture takes to be read and decoded, of a few; one that can not be read is as fast."""
    entries = listing.entries[:: max(1, len(listing.entries) // SAMPLE)][:SAMPLE]
    start = time.perf_counter()
    for entry in entries:
        try:
            entry.read().decode()
        except (LensmountError, OSError):
            continue
    return (time.perf_counter() - start) / max(1, len(entries))


def _spoken(seconds: float) -> str:
    if seconds < 1:
        return "a moment"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
