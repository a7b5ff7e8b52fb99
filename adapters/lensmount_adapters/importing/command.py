"""`lensmount adapters import`: an adapter or a checkpoint of the ecosystem in, a package out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json, table
from lensmount_adapters.importing.packing import ALLOWED
from lensmount_adapters.importing.ranking import Trial
from lensmount_adapters.importing.request import Form, Report, Request
from lensmount_adapters.importing.workflow import import_adapter

EXAMPLES = options.examples(
    "lensmount adapters import runs/peft --task defect --labels ok,scratch --out runs/defect \\",
    "    --backbone vit_tiny_patch16_224",
    "lensmount adapters import hf://owner/vit-lora --task food --out runs/food",
    "lensmount adapters import tuned.safetensors --task grade --labels a,b,c --backbone resnet50 --out runs/grade",
    "lensmount adapters import tuned.pth --as lora --pictures parts --task grade --labels a,b,c \\",
    "    --backbone vit_small_patch16_224 --out runs/grade",
)


@click.command("import", epilog=EXAMPLES)
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where the package goes.")
@click.option("--task", required=True, metavar="NAME", help="The name that clients ask for.")
@click.option("--labels", metavar="LIST", help="Labels in the order of the outputs, with commas [as the files say].")
@click.option("--backbone", default="", metavar="NAME", help="timm's name of the backbone [as the files say].")
@click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Its weights (safetensors)."
)
@click.option("--base", default="", metavar="ADDRESS", help="The Hugging Face model under an adapter [as PEFT says].")
@click.option(
    "--save-weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make the backbone's weights of that model, for `lensmount serve --weights`.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Pictures to compare with, in folders by label or not [a few drawn ones].",
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["replaced", "lora"]),
    default="replaced",
    show_default=True,
    help="A whole checkpoint: exact segments, or low-rank stand-ins.",
)
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="--as lora: the share of accuracy (of agreement, without labels) that a rank may lose.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the drawn pictures.")
@options.as_json
def import_(  # noqa: PLR0913 - one argument for each option
    source: str,
    *,
    out: Path,
    task: str,
    labels: str | None,
    backbone: str,
    weights: Path | None,
    base: str,
    save_weights: Path | None,
    pictures: Path | None,
    form: Form,
    max_loss: float,
    seed: int,
    as_json: bool,
) -> None:
    """Make a package of a LoRA adapter of PEFT's, or of a whole fine-tuned model.

    SOURCE is a folder or a file of this machine, hf://owner/name[@revision][/folder], s3://bucket/folder, or another
    address that fsspec knows. It may be an adapter that PEFT trained on a timm model or on a ViTForImageClassification
    of Hugging Face's, or the weights of a timm model or of such a ViT. The package is compared with the original
    before it is written.
    """
    names = tuple(label.strip() for label in labels.split(",")) if labels else ()
    request = Request(
        source=source,
        out=out,
        task=task,
        labels=names,
        backbone=backbone,
        weights=weights,
        base=base,
        save_weights=save_weights,
        pictures=pictures,
        form=form,
        max_loss=max_loss,
        seed=seed,
    )
    with _Bars(console(stderr=True)) as progress:
        report = import_adapter(request, progress)
    if as_json:
        print_json(_document(report))
    else:
        _print(report)


class _Bars:
    """Stages as bars that go when all is done."""

    def __init__(self, shown: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._display = Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def stage(self, label: str, total: int) -> Callable[[], object]:
        """A new bar."""
        bar = self._display.add_task(label, total=total)
        return lambda: self._display.advance(bar)


def _print(report: Report) -> None:
    shown = console()
    if report.trials:
        shown.print(_trials(report.trials))
    shown.print(facts(_facts(report)))
    for note in report.notes:
        shown.print(Text(note), soft_wrap=True)
    shown.print(Text(f"Next: lensmount register {report.out}"), soft_wrap=True)


def _trials(trials: Iterable[Trial]) -> Table:
    rows = (
        (
            f"{trial.rank}{' *' if trial.chosen else ''}",
            f"{trial.size_bytes / 2**20:.2f}",
            f"{trial.agreement:.4f}",
            "-" if trial.accuracy is None else f"{trial.accuracy:.4f}",
            f"{trial.difference:.2g}",
            f"{trial.loss:.4f}",
        )
        for trial in trials
    )
    return table("rank", "MiB", "agreement", "accuracy", "largest difference", "loss", rows=rows)


def _facts(report: Report) -> dict[str, object]:
    manifest = report.manifest
    kinds = [edit.kind for edit in manifest.edits]
    edits = ", ".join(f"{kinds.count(kind)} {word}" for kind, word in _WORDS.items() if kind in kinds)
    return {
        "task": manifest.task,
        "labels": ", ".join(manifest.labels[:8]) + (", …" if len(manifest.labels) > 8 else ""),
        "backbone": f"{manifest.backbone.name} {manifest.backbone.fingerprint[:12]}",
        "segments": f"{edits or 'none edited'}, fork {manifest.fork}",
        "package": f"{report.out}, {report.size_bytes / 2**20:.2f} MiB, {report.content_hash[:12]}",
        "same answers": f"logits differ by {report.difference:.1e} of the largest, {ALLOWED:.0e} allowed",
        **{name: f"{value:.4g}" for name, value in sorted(manifest.metrics.items())},
    }


_WORDS = {"lora": "low-rank", "replace": "replaced"}


def _document(report: Report) -> dict[str, object]:
    manifest = report.manifest
    return {
        "task": manifest.task,
        "labels": manifest.labels,
        "kind": manifest.kind,
        "strategy": manifest.strategy,
        "backbone": manifest.backbone.name,
        "fingerprint": manifest.backbone.fingerprint,
        "edits": {edit.segment: edit.kind for edit in manifest.edits},
        "fork": manifest.fork,
        "out": str(report.out),
        "content_hash": report.content_hash,
        "size_bytes": report.size_bytes,
        "difference": report.difference,
        "allowed": ALLOWED,
        "metrics": manifest.metrics,
        "settings": manifest.provenance.settings,
        "trials": report.trials,
        "notes": report.notes,
    }
