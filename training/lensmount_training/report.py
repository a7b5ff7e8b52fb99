"""The closing words of a run: what was chosen and why, its figures, the next step; or one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmount_adapters.backbones.default import BUNDLED
from lensmount_training.evaluation import Scores
from lensmount_training.workflow import Run

# More classes than these and a confusion matrix is for the report, not for a terminal.
MOST_CLASSES = 12


def print_report(run: Run, console: Console) -> None:
    """Print what was tried, the figures of what was chosen, and what to type next."""
    if run.choice.depth:
        console.print(run.choice.depth.table())
    if len(run.choice.candidates) > 1:
        console.print(_candidates(run))
    console.print(_figures(run))
    if run.test.confusion and len(run.test.confusion) <= MOST_CLASSES:
        console.print(_confusion(run))
    if run.skipped:
        console.print(Text(f"{len(run.skipped)} files were skipped; they are named above."))
    console.print(Text(run.choice.reason + "."), soft_wrap=True)
    for note in run.notes:
        console.print(Text(note), soft_wrap=True)
    console.print(Text(f"Report: {run.report}"), soft_wrap=True)
    console.print(Text(f"\nNext: {_next(run)}"), soft_wrap=True)


def as_object(run: Run) -> dict[str, Any]:
    """The run as plain values."""
    return {
        "task": run.manifest.task,
        "strategy": run.manifest.strategy,
        "backbone": run.manifest.backbone.name,
        "labels": run.manifest.labels,
        "kind": run.manifest.kind,
        "out": str(run.out),
        "report": str(run.report),
        "content_hash": run.content_hash,
        "seed": run.manifest.provenance.seed,
        "data_hash": run.manifest.provenance.data_hash,
        "pictures": {"train": run.train_pictures, "validation": run.validation.pictures, "test": run.test.pictures},
        "skipped": [asdict(skipped) for skipped in run.skipped],
        "candidates": [
            {
                "strategy": own.learned.name,
                "seconds": round(own.learned.seconds, 2),
                "parameters": own.learned.trained.parameters,
                "gain": asdict(own.gain) if own.gain else None,
            }
            for own in run.choice.candidates
        ],
        "depth": [asdict(row) for row in run.choice.depth.rows] if run.choice.depth else None,
        "reason": run.choice.reason,
        "notes": list(run.notes),
        "validation": asdict(run.validation),
        "test": asdict(run.test),
        "test_openings": run.openings,
        "metrics": run.manifest.metrics,
        "requirements": run.manifest.requirements,
        "holds": run.holds,
        "trained_parameters": run.trained_parameters,
        "backbone_parameters": run.backbone_parameters,
        "seconds": round(run.seconds, 2),
    }


def _candidates(run: Run) -> Table:
    table = Table(title="tried, on the validation pictures")
    for column in ("strategy", "over the frozen backbone", "parameters", "seconds", ""):
        table.add_column(column, justify="left" if column in ("strategy", "") else "right")
    for own in run.choice.candidates:
        learned = own.learned
        mark = "taken" if learned is run.choice.chosen else ""
        gain = str(own.gain) if own.gain else "the floor"
        table.add_row(learned.name, gain, f"{learned.trained.parameters:,}", f"{learned.seconds:.1f}", mark)
    return table


def _figures(run: Run) -> Table:
    table = Table(title=Text(f"{run.manifest.task}: {run.manifest.strategy} on {run.manifest.backbone.name}"))
    for column in ("", "pictures", "accuracy", "95 % interval", "macro F1"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("validation", *_row(run.validation))
    table.add_row("sealed test", *_row(run.test))
    share = run.trained_parameters / run.backbone_parameters
    trained = f"{run.trained_parameters:,} beside {run.backbone_parameters:,} ({share:.2%})"
    opened = "" if run.openings == 1 else f" · the test set was opened {run.openings} times"
    table.caption = Text(f"parameters: {trained} · {run.seconds:.1f} s{opened}")
    return table


def _row(scores: Scores) -> tuple[str, ...]:
    interval = f"{scores.low:.3f} to {scores.high:.3f}"
    return str(scores.pictures), f"{scores.accuracy:.3f}", interval, f"{scores.macro_f1:.3f}"


def _confusion(run: Run) -> Table:
    table = Table(title="sealed test: class (row) by answer (column)")
    table.add_column("")
    for label in run.manifest.labels:
        table.add_column(Text(label), justify="right")
    for label, row in zip(run.manifest.labels, run.test.confusion, strict=True):
        table.add_row(Text(label), *map(str, row))
    return table


def _next(run: Run) -> str:
    if not run.holds:
        return "look at the report, then train with more pictures of that class, or require less (--require-recall)"
    register = f"lensmount register {run.out}"
    name = run.manifest.backbone.name
    return register if name == BUNDLED else f"{register}   (on a server with --backbone {name})"
