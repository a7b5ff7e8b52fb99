"""The closing words of a run: figures, confusion matrix, the next step; or one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmount_training.evaluation import Scores
from lensmount_training.workflow import Run


def print_report(run: Run, console: Console) -> None:
    """Print the figures of a run, who is taken for whom, and what to type next."""
    console.print(_figures(run))
    console.print(_confusion(run))
    if run.skipped:
        console.print(Text(f"{len(run.skipped)} files were skipped; they are named above."))
    if warning := _no_gain(run):
        console.print(Text(warning))
    console.print(Text(f"\nNext: lensmount register {run.out}"), soft_wrap=True)


def as_json(run: Run) -> dict[str, Any]:
    """The run as plain values."""
    return {
        "task": run.manifest.task,
        "strategy": run.manifest.strategy,
        "backbone": run.manifest.backbone.name,
        "labels": run.manifest.labels,
        "out": str(run.out),
        "content_hash": run.content_hash,
        "seed": run.manifest.provenance.seed,
        "data_hash": run.manifest.provenance.data_hash,
        "pictures": {"train": run.train_pictures, "validation": run.validation.pictures, "test": run.test.pictures},
        "skipped": [asdict(skipped) for skipped in run.skipped],
        "validation": asdict(run.validation),
        "test": asdict(run.test),
        "metrics": run.manifest.metrics,
        "trained_parameters": run.trained_parameters,
        "backbone_parameters": run.backbone_parameters,
        "seconds": round(run.seconds, 2),
    }


def _figures(run: Run) -> Table:
    table = Table(title=Text(f"{run.manifest.task}: {run.manifest.strategy} on {run.manifest.backbone.name}"))
    for column in ("", "pictures", "accuracy", "95 % interval", "macro F1"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("validation", *_row(run.validation))
    table.add_row("sealed test", *_row(run.test))
    share = run.trained_parameters / run.backbone_parameters
    trained = f"{run.trained_parameters:,} of {run.backbone_parameters:,} ({share:.2%})"
    table.caption = Text(f"trained parameters: {trained} · {run.seconds:.1f} s")
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


def _no_gain(run: Run) -> str:
    """A sentence when the edits brought nothing over the head that training started from."""
    floor = run.manifest.metrics.get("probe_validation_accuracy")
    if floor is None or run.validation.accuracy > floor:
        return ""
    return (
        f"On the validation pictures the edits are no better than a head alone ({floor:.3f}): "
        "try --strategy features, which costs the server less."
    )
