"""The report: one file that can be sent around, with everything in it, for people who run the line."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import EISDIR
from functools import cache
from itertools import groupby
from math import ceil
from os import strerror
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from lensmount.errors import InvalidInputError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_training.costs import BATCH
from lensmount_training.data import Pictures, Skipped
from lensmount_training.depth import Sweep
from lensmount_training.evaluation.comparing import Comparison
from lensmount_training.evaluation.curves import Points
from lensmount_training.evaluation.judging import Evaluation
from lensmount_training.evaluation.reasons import heat_map, overlay, plain
from lensmount_training.evaluation.slices import Slice
from lensmount_training.evaluation.verdict import Verdict, verdict
from lensmount_training.evaluation.worst import Worst

# A curve has no more corners than can be seen.
MOST_POINTS = 200
# Labels of which curves are drawn, those with the smallest area first; and up to which all are in the matrix.
MOST_CURVES, MOST_CELLS = 12, 40
MOST_SKIPPED = 50


@dataclass(frozen=True)
class Shown:
    """A picture that is shown: what is known of it, itself, and where the model looked, as JPEG."""

    worst: Worst
    picture: bytes
    heat: bytes


@dataclass(frozen=True)
class Report:
    """What is told of an adapter.

    `part` says what the pictures were and how often they were looked at before; `facts` where adapter and data come
    from, in the order in which they are shown; `depth` what several depths gave, where they were tried.
    """

    task: str
    evaluation: Evaluation
    part: str
    facts: Mapping[str, str]
    shown: tuple[Shown, ...] = ()
    comparison: Comparison | None = None
    skipped: tuple[Skipped, ...] = ()
    depth: Sweep | None = None

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        return verdict(self.evaluation, self.comparison)


def show(evaluation: Evaluation, adapter: Adapter, backbone: Backbone, pictures: Pictures) -> tuple[Shown, ...]:
    """The worst pictures of the part that was judged, with the model's reasons."""
    found = []
    for own in evaluation.worst:
        row = pictures.pixels[own.place : own.place + 1][0]
        heat = heat_map(adapter, backbone, row, evaluation.labels.index(own.label))
        found.append(Shown(own, plain(row), overlay(row, heat)))
    return tuple(found)


def render(report: Report) -> str:
    """The report as one HTML document that needs no other file and no network."""
    evaluation = report.evaluation
    scores = evaluation.scores
    weakest = sorted(evaluation.curves, key=lambda curve: curve.roc_auc)[:MOST_CURVES]
    return _template().render(
        report=report,
        evaluation=evaluation,
        scores=scores,
        verdict=report.verdict,
        curves=weakest,
        left_out=len(evaluation.curves) - len(weakest),
        matrix=_matrix(scores.confusion) if len(evaluation.labels) <= MOST_CELLS else (),
        mistakes=_mistakes(evaluation),
        slices=_grouped(evaluation.slices),
        skipped=report.skipped[:MOST_SKIPPED],
        batch=BATCH,
    )


def write(report: Report, path: Path) -> None:
    """Write the report under its name when it is whole; raises InvalidInputError where it can not be written."""
    write_text(render(report), path)


def check_folder(folder: Path, names: Sequence[str]) -> None:
    """Raise InvalidInputError where files of these names could not be put; nothing is left there."""
    try:
        taken = [path for path in map(folder.joinpath, names) if path.is_dir()]
        if taken:
            raise IsADirectoryError(EISDIR, strerror(EISDIR))
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=folder, fix="give another --out") from error


def write_text(text: str, path: Path) -> None:
    """Put a text under its name when it is whole; raises InvalidInputError where it can not be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Names of files may hold bytes that are no text.
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=path, fix="give another --out") from error


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("lensmount_training.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, line=_line, jpeg=_jpeg, png=_png, x=_x, y=_y)
    return environment.get_template("report.html")


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _x(share: float) -> str:
    return f"{10 + 180 * share:.1f}"


def _y(share: float) -> str:
    return f"{190 - 180 * share:.1f}"


def _line(points: Points) -> str:
    """Corners of a line in a square of 200 units, its origin at the bottom."""
    step = ceil(len(points) / MOST_POINTS)
    chosen = [*points[:-1:step], points[-1]]
    return " ".join(f"{_x(x)},{_y(y)}" for x, y in chosen)


def _jpeg(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _matrix(confusion: Sequence[Sequence[int]]) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Every count with its share of the row."""
    return tuple(tuple((count, count / max(sum(row), 1)) for count in row) for row in confusion)


def _mistakes(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The most common: what it is, what it was called, how often."""
    labels = evaluation.labels
    wrong = [
        (labels[true], labels[called], count)
        for true, row in enumerate(evaluation.scores.confusion)
        for called, count in enumerate(row)
        if true != called and count
    ]
    return sorted(wrong, key=lambda own: -own[2])[:10]


def _grouped(found: Sequence[Slice]) -> list[tuple[str, list[Any]]]:
    return [(by, list(own)) for by, own in groupby(found, key=lambda each: each.by)]
