"""`lensmount evaluate`: a package against pictures, a verdict and a report out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lensmount.cli import options
from lensmount.cli.output import console, plain, table
from lensmount_training.context import Context
from lensmount_training.data.options import reading
from lensmount_training.evaluation import report, running
from lensmount_training.evaluation.judging import metrics
from lensmount_training.evaluation.listing import Reading
from lensmount_training.evaluation.parts import PartName
from lensmount_training.evaluation.running import Judged
from lensmount_training.progress import BarProgress

REPORT, DOCUMENT = "report.html", "evaluation.json"
NOT_REACHED = 1

EXAMPLES = options.examples(
    "lensmount evaluate runs/defect parts-of-may",
    "lensmount evaluate runs/defect parts-of-may --require-recall crack=0.98 --out reports/may",
    "lensmount evaluate runs/defect-2 parts-of-may --against runs/defect",
)


@click.command("evaluate", epilog=EXAMPLES)
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@reading
@click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="The backbone's (safetensors)."
)
@click.option(
    "--part",
    type=click.Choice(["all", "test", "validation"]),
    default="all",
    show_default=True,
    help="Of the data, by the split that the package was trained with. Opening the test set is noted.",
)
@click.option("--split", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="The split's file.")
@click.option("--against", type=click.Path(path_type=Path), metavar="PACKAGE", help="Compare with another package.")
@click.option(
    "--require-recall",
    "required",
    multiple=True,
    metavar="LABEL=NUMBER",
    help="The least share of a label's pictures that must be found, such as crack=0.98; repeatable.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where the report goes [PACKAGE-evaluation]."
)
@options.as_json
def evaluate(  # noqa: PLR0913 one argument for each option
    package: Path,
    data: Path,
    *,
    format: str | None,  # noqa: A002 the option's name
    group_by: str | None,
    every: float | None,
    margin: float | None,
    weights: Path | None,
    part: PartName,
    split: Path | None,
    against: Path | None,
    required: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Judge a PACKAGE by the pictures of DATA, a folder or index as for `lensmount train`, on this machine.

    DATA are read as the package's own were, where they are in that form; options that say otherwise win.
    The report, one HTML file, says what may be expected of it and shows its worst mistakes. The exit code is 1 when
    a recall that is required, here or by the package itself, is not reached.
    """
    whole = package.resolve()
    folder = out or whole.with_name(f"{whole.name}-evaluation")
    report.check_folder(folder, (DOCUMENT, REPORT))
    asked = Reading(format, group_by, every, margin)
    request = running.Request(package, data, weights, part, split, against, required, reading=asked)
    with BarProgress(Console(stderr=True)) as progress:
        judged = running.judge(request, Context(progress))
    told = document(judged)
    report.write_text(json.dumps(told, indent=1) + "\n", folder / DOCUMENT)
    report.write(judged.report, folder / REPORT)
    if as_json:
        # In ASCII: names of files may hold bytes that are no text.
        click.echo(json.dumps({"report": str(folder / REPORT), **told}))
    else:
        _print(judged, folder)
    if not judged.report.evaluation.holds:
        raise SystemExit(NOT_REACHED)


def document(judged: Judged) -> dict[str, Any]:
    """An evaluation in JSON's types, without curves and pictures."""
    own = judged.report
    evaluation = own.evaluation
    comparison = own.comparison
    made: dict[str, Any] = plain(
        {
            "task": own.task,
            "content_hash": judged.content_hash,
            "part": own.part,
            "holds": evaluation.holds,
            "verdict": asdict(own.verdict),
            "requirements": [{**asdict(each), "holds": each.holds} for each in evaluation.requirements],
            "metrics": metrics(evaluation),
            "labels": evaluation.labels,
            "kind": evaluation.kind,
            "calibration": asdict(evaluation.calibration),
            "scores": asdict(evaluation.scores),
            "reliability": asdict(evaluation.reliability),
            "areas": {each.label: [each.roc_auc, each.average_precision] for each in evaluation.curves},
            "slices": [asdict(each) for each in evaluation.slices],
            "worst": [asdict(each) for each in evaluation.worst],
            "comparison": {**asdict(comparison), "words": comparison.words} if comparison else None,
            "facts": own.facts,
            "skipped": [asdict(each) for each in own.skipped],
        }
    )
    return made


def _print(judged: Judged, folder: Path) -> None:
    shown, own = console(), judged.report
    evaluation = own.evaluation
    shown.print(Text(own.verdict.headline, style="bold"))
    for sentence in own.verdict.sentences:
        shown.print(Text(f"- {sentence}"), soft_wrap=True)
    shown.print(_classes(judged))
    for each in evaluation.requirements:
        value = "not measured" if each.value is None else f"{each.value:.3f}"
        words = "reached" if each.holds else "NOT reached"
        shown.print(Text(f"{each.metric}: {value} of {each.least:g}, {words}"), soft_wrap=True)
    shown.print(Text(f"Report: {folder / REPORT}"), soft_wrap=True)


def _classes(judged: Judged) -> Table:
    rows = (
        (
            Text(own.label),
            own.support,
            f"{own.recall:.3f}" if own.support else "-",
            f"{own.recall_interval.low:.3f} to {own.recall_interval.high:.3f}" if own.support else "-",
            f"{own.precision:.3f}",
            f"{own.f1:.3f}",
        )
        for own in judged.report.evaluation.scores.classes
    )
    return table("label", "pictures", "recall", "95 % interval", "precision", "F1", rows=rows)
