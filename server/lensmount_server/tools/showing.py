"""The difference of two packages for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from lensmount.cli.output import console, table
from lensmount_adapters.diff import Diff, Labels, TensorChange
from lensmount_server.tools.answers import Answers

# There may be thousands of tensors; those that changed most are shown.
MOST_TENSORS = 20


def show_diff(found: Diff, answers: Answers | None) -> None:
    """Print what changed; what silently changes the meaning of a score goes first."""
    out = console()
    if found.same:
        out.print(f"the same content, {found.hash_before[:12]}")
        return
    for line in _labels(found.labels):
        out.print(line)
    for part in (_settings(found), _metrics(found), _low_rank(found), _tensors(found)):
        if part.row_count:
            out.print(part)
            out.print()
    out.print(f"{len(found.tensors):,} tensors differ, {found.same_tensors:,} are the same")
    if answers is not None:
        out.print(_agreement(answers))


def _labels(labels: Labels) -> Iterator[Text]:
    if labels.moved:
        places = (f"{label}: {labels.before.index(label)} -> {labels.after.index(label)}" for label in labels.moved)
        yield Text(f"LABELS MOVED, their scores stand elsewhere now: {', '.join(places)}", style="bold red")
    for what, own in (("added", labels.added), ("removed", labels.removed)):
        if own:
            yield Text(f"labels {what}: {', '.join(own)}", style="bold")


def _settings(found: Diff) -> Table:
    made = table(
        "what", "before", "after", rows=((own.name, *map(_text, (own.before, own.after))) for own in found.fields)
    )
    for edit in found.edits:
        if edit.before != edit.after:
            made.add_row(f"edit of {edit.segment}", edit.before or "-", edit.after or "-")
    made.add_row("bytes", f"{found.size_before:,}", f"{found.size_after:,}")
    return made


def _metrics(found: Diff) -> Table:
    rows = (
        (own.name, _number(own.before), _number(own.after), "" if own.difference is None else f"{own.difference:+.4g}")
        for own in found.metrics
    )
    return table("metric", "before", "after", "change", rows=rows)


def _low_rank(found: Diff) -> Table:
    rows = (
        (
            own.module,
            f"{own.rank_before} -> {own.rank_after}",
            f"{own.scale_before:g} -> {own.scale_after:g}",
            _percent(own.relative),
        )
        for own in found.low_rank
    )
    return table("low-rank edit", "rank", "scale", "what it adds", rows=rows)


def _tensors(found: Diff) -> Table:
    def size(own: TensorChange) -> float:
        return float("inf") if own.relative is None else own.relative

    most = sorted(found.tensors, key=size, reverse=True)[:MOST_TENSORS]
    rows = ((own.name, _text(own.before), _text(own.after), _percent(own.relative)) for own in most)
    return table("tensor", "before", "after", "change", rows=rows)


def _agreement(answers: Answers) -> str:
    agreement = f"{answers.agreeing} of {answers.pictures} decisions on golden pictures agree"
    if not answers.label:
        return agreement
    return f"{agreement}; a probability changes by {answers.largest_change:.3f} at most ({answers.label})"


def _text(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
