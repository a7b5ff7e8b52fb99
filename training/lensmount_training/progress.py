"""What a long training run says while it runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichDisplay
from rich.text import Text


class Bar(Protocol):
    """One stage of known length."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more steps are done; `note` replaces the words behind the bar unless it is empty."""


class Progress(Protocol):
    """Where a run reports its stages; they come one after the other."""

    def bar(self, label: str, total: int) -> Bar:
        """Start a stage of `total` steps."""

    def say(self, text: str) -> None:
        """One sentence that the person should see."""


class NoProgress:
    """Reports nothing; its own bar."""

    def bar(self, label: str, total: int) -> NoProgress:  # noqa: ARG002 the protocol has them
        """A bar that shows nothing."""
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class BarProgress:
    """Bars on a console; a context manager, so that the display ends when a run fails."""

    def __init__(self, console: Console) -> None:
        self._display = RichDisplay(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def bar(self, label: str, total: int) -> Bar:
        """A new bar below those before it."""
        return _ConsoleBar(self._display, self._display.add_task(label, total=total, note=""))

    def say(self, text: str) -> None:
        """The sentence, above the bars."""
        self._display.console.print(Text(text))


class _ConsoleBar:
    def __init__(self, display: RichDisplay, task: TaskID) -> None:
        self._display = display
        self._task = task

    def advance(self, count: int = 1, note: str = "") -> None:
        self._display.advance(self._task, count)
        if note:
            self._display.update(self._task, note=note)
