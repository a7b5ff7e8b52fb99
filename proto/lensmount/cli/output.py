"""Results for machines (JSON lines) and for people (tables)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from lensmount.results import Drops, Result
from lensmount.tasks import TaskRef

_FILE_WIDTH = 200


def plain(value: Any) -> Any:
    """A result in JSON's types: tasks as text, scores by label, pictures left out, NaN and infinity as null."""
    if isinstance(value, Result):
        return _result(value)
    if isinstance(value, TaskRef):
        return str(value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def print_json(value: Any, **more: Any) -> None:
    """One JSON document on one line; `more` goes in front of an object's own fields."""
    document = plain(value)
    click.echo(json.dumps({**more, **document} if more else document, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """A console that prints names as they are: no markup, no highlighting; wide where nobody looks."""
    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else _FILE_WIDTH
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def table(*columns: str, rows: Iterable[Iterable[object]] = ()) -> Table:
    """A table; numbers are for the caller to format."""
    made = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def facts(pairs: Mapping[str, object]) -> Table:
    """Two columns: what, and its value."""
    made = Table(box=None, show_header=False, pad_edge=False)
    for name, value in pairs.items():
        made.add_row(name, _cell(value))
    return made


@contextmanager
def transfer(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes on their way, which goes at the end; to be told how many came, and how many there are."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda come, total: progress.update(bar, completed=come, total=total)


def time(time_ns: int) -> str:
    """A Unix time in nanoseconds as the local clock showed it."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lost(drops: Drops) -> str:
    """Lost frames by reason, as "12 superseded, 3 late"; "-" when there are none."""
    counts = ((field.name, getattr(drops, field.name)) for field in fields(drops))
    return ", ".join(f"{count:,} {reason}" for reason, count in counts if count) or "-"


def _cell(value: object) -> str | Text:
    return value if isinstance(value, Text) else str(value)


def _result(result: Result) -> dict[str, Any]:
    return {
        "source": result.source,
        "frame_index": result.frame_index,
        "pts_ns": result.pts_ns,
        "capture_time_ns": result.capture_time_ns,
        "task": result.task,
        "version": result.version,
        "content_hash": result.adapter.content_hash,
        "label": result.label,
        "score": result.score,
        "labels": list(result.labels),
        "scores": {each.label: each.score for each in result.scores},
        "timings": plain(result.timings),
        "dropped_before": plain(result.dropped_before),
        "reused": result.reused,
    }
