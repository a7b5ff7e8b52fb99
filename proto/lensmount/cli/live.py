"""A table that follows a stream: the last result of every task on every source."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from lensmount.cli.output import console, lost, table
from lensmount.results import Result
from lensmount.sources import Source

_RATE_S = 5.0


class LiveTable:
    """Redrawn a few times a second while it is open; off a terminal it is printed once, at the end."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], Result] = {}
        self._rates: dict[tuple[str, str], _Rate] = {}
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
        self._rates.setdefault(key, _Rate()).add(time.monotonic())
        self._last[key] = item

    def _table(self) -> Table | str:
        if not self._last:
            return ""
        said = ("version", "frame", "answer", "score")
        columns = ("source", "task", *said, "fps", "age ms", "dropped before", "results")
        return table(*columns, rows=(self._row(key) for key in sorted(self._last)))

    def _row(self, key: tuple[str, str]) -> tuple[object, ...]:
        result, rate = self._last[key], self._rates[key]
        answer = Text(", ".join(result.labels) or "-")
        if result.reused:
            answer.append(" REUSED", "cyan")
        said = (result.version, result.frame_index, answer, f"{result.score:.2f}")
        return (
            *key,
            *said,
            f"{rate.fps():.1f}",
            f"{result.timings.total_ms:.1f}",
            lost(result.dropped_before),
            rate.count,
        )


class _Rate:
    """Results a second over the last seconds, and how many in all."""

    def __init__(self) -> None:
        self.count = 0
        self._times: deque[float] = deque()

    def add(self, now_s: float) -> None:
        """One came."""
        self.count += 1
        self._times.append(now_s)
        while now_s - self._times[0] > _RATE_S:
            self._times.popleft()

    def fps(self) -> float:
        """0.0 before the second one."""
        span_s = self._times[-1] - self._times[0]
        return (len(self._times) - 1) / span_s if span_s else 0.0
