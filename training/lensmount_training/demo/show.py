"""Plays the footage: results live in the terminal, a version registered on the way and live from half time on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from lensmount import Result
from lensmount_training.demo.footage import Footage
from lensmount_training.demo.swap import Swap

QUARTER, HALF = 0.25, 0.5


def play(footage: Footage, swap: Swap | None, console: Console) -> list[Result]:
    """Take every result, swap at half time, show the latest of each task."""
    results: list[Result] = []
    try:
        with _display(console) as show:
            for result in footage.results(lambda: swap is None or swap.over):
                results.append(result)
                done = footage.progress(result)
                if swap:
                    _drive(swap, result, done, console)
                show(result, done)
    finally:
        if swap:
            swap.end()
    return results


def _drive(swap: Swap, result: Result, done: float, console: Console) -> None:
    if not swap.begun and done >= QUARTER:
        console.print(f"frame {result.frame_index}: registering another version of [bold]{swap.task}[/] …")
        swap.begin()
    if done >= HALF:
        swap.promote()
    if swap.see(result) and swap.times:
        took = f"{swap.times.swap_ms:.0f} ms after it was made live"
        console.print(f"frame {result.frame_index}: [bold]{swap.task}[/] version {result.version} answers, {took}")


class _Screen:
    """The latest result of each task, and how far the video is."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._latest: dict[str, Result] = {}

    def __call__(self, result: Result, done: float) -> None:
        self._latest[result.task] = result
        table = Table("task", "version", "frame", "answer", "score", "ms", width=72)
        for task, last in sorted(self._latest.items()):
            answer = last.label or "nothing"
            row = (
                str(last.version),
                str(last.frame_index),
                answer,
                f"{last.score:.2f}",
                f"{last.timings.total_ms:.0f}",
            )
            table.add_row(task, *row)
        self._live.update(Group(table, ProgressBar(total=1.0, completed=done, width=72)))


@contextmanager
def _display(console: Console) -> Iterator[_Screen]:
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        yield _Screen(live)
