"""`--dry-run`: what a run would do and how long it would take, without doing it.

Nothing is trained. A few pictures are decoded and one batch is run, segment by segment; the rest is arithmetic, so the
estimate is of this machine as busy as it is now.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmount.errors import LensmountError
from lensmount_adapters.backbones import Backbone
from lensmount_training.checks import check_fits, check_settings, strategies_of
from lensmount_training.chooser import BASELINE, propose
from lensmount_training.costs import BATCH, segment_times
from lensmount_training.data.listing import Listing
from lensmount_training.data.reading import check_counts
from lensmount_training.estimate import Sizes, sizes_of, trained
from lensmount_training.places import choose_out
from lensmount_training.progress import Progress
from lensmount_training.recipe import AUTO, Recipe
from lensmount_training.run_folder import RunFolder, check_unfinished
from lensmount_training.settling import settled
from lensmount_training.workflow import going_on, listed, open_backbone

SAMPLE = 8
# cleanvision's looks at a picture, on one core.
AUDIT_S = 0.02


@dataclass(frozen=True)
class Step:
    """One stage of a run, what it does, and its seconds; not `certain` where an earlier stage decides about it.

    `seconds` are for all that it may try, `seconds_low` for the least of it.
    """

    name: str
    what: str
    seconds: float
    seconds_low: float
    certain: bool


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
        low = sum(step.seconds_low for step in self.steps if step.certain)
        return low, sum(step.seconds for step in self.steps)


def plan_of(recipe: Recipe, out: Path | None, progress: Progress, *, fresh: bool = False) -> Plan:
    """Plan a run; raises what the run itself would raise for data, settings and places that can not work."""
    check_settings(recipe)
    loaded = functools.cache(lambda: open_backbone(recipe, progress))
    target = choose_out(recipe.task, out, progress, going_on(recipe, loaded, fresh=fresh))
    listing = listed(recipe)
    backbone = loaded()
    check_fits(recipe, backbone)
    if not fresh:
        check_unfinished(RunFolder(target), settled(recipe, backbone))
    counts = Counter(label for entry in listing.entries for label in entry.labels)
    check_counts(listing.labels, counts, "pictures")
    return Plan(
        out=target,
        backbone=backbone.name,
        form=listing.form,
        pictures={label: counts[label] for label in listing.labels},
        skipped=len(listing.skipped),
        steps=tuple(_steps(recipe, listing, sizes_of(listing), backbone)),
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
        took = _span(step.seconds_low, step.seconds)
        table.add_row(step.name, Text(step.what), took if step.certain else f"perhaps {took}")
    console.print(table)
    console.print(Text(f"All of it: {_span(low, high)} on this machine as it is now. Nothing was trained."))


def _steps(recipe: Recipe, listing: Listing, sizes: Sizes, backbone: Backbone) -> Iterator[Step]:
    count = len(listing.entries)
    seconds = [own / BATCH for own in segment_times(backbone, repetitions=3).segments]
    whole = sum(seconds)
    views = len(recipe.views)
    yield _step("read", f"{count} pictures, each opened once", count * _decoding(listing))
    if recipe.audit:
        yield _step("audit", "duplicates, faults, label errors, domain", count * (AUDIT_S + whole))
    parts = f"{sizes.sealed} sealed, {sizes.validation} to choose by, {sizes.train} to train on"
    yield _step("split", parts, 0.0)
    passes = (sizes.train * views + sizes.validation) * whole
    yield _step(BASELINE, f"a head on the frozen backbone, {views} views: the floor", passes)
    proposal = propose(sizes.smallest, None)
    certain = recipe.strategy != AUTO or bool(proposal.names)
    full = recipe.full or (recipe.strategy == AUTO and proposal.full)
    for name in strategies_of(recipe)[1:]:
        span = trained(recipe, name, sizes, backbone, seconds, full=full)
        yield Step(name, span.what, span.high, span.low, certain)
    yield _step("sealed set", "opened once, after everything was chosen", sizes.sealed * whole)


def _step(name: str, what: str, seconds: float) -> Step:
    return Step(name, what, seconds, seconds, certain=True)


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


def _span(low: float, high: float) -> str:
    least, most = _spoken(low), _spoken(high)
    return most if least == most else f"{least} to {most}"


def _spoken(seconds: float) -> str:
    if seconds < 1:
        return "a moment"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
