"""A table that follows a stream: the last result of every task on every source."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table

from lensmount.cli.output import console, table
from lensmount.results import Result
from lensmount.sources import Source


class LiveTable:
    """Redrawn a few times a second while it is open; off a terminal it is printed once, at the end."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Result] = {}
        self._count: dict[tuple[str, str], int] = {}
        self._live = Live(console=console(), get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def add(self, item: Result | Source) -> None:
        """Take in a result; a source's change of state is printed above the table."""
        if isinstance(item, Source):
            self._live.console.print(f"{item.name}: {item.state}{f', {item.reason}' if item.reason else ''}")
            return
        key = (item.source, item.task)
        self._last[key] = item
        self._count[key] = self._count.get(key, 0) + 1

    def _table(self) -> Table | str:
        if not self._last:
            return ""
        columns = ("source", "task", "version", "frame", "answer", "score", "ms", "results")
        return table(*columns, rows=(self._row(key) for key in sorted(self._last)))

    def _row(self, key: tuple[str, str]) -> tuple[object, ...]:
        result = self._last[key]
        answer, score = ", ".join(result.labels) or "-", f"{result.score:.2f}"
        ms = f"{result.timings.total_ms:.1f}"
        return (*key, result.version, result.frame_index, answer, score, ms, self._count[key])
