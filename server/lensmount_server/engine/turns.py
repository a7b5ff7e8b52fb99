"""Who may compute: one at a time, a pass before all other work that waits (a trial, the capture of a graph).

A plain lock would not do: whoever captures graph after graph takes it again before a pass that waits has woken up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Turns of passes, and of what goes in between; for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._passes_waiting = 0

    @contextmanager
    def a_pass(self) -> Iterator[None]:
        """Wait for whoever has the turn, and for nobody else; while open, nobody else has it."""
        with self._changed:
            self._passes_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._taken)
            finally:
                self._passes_waiting -= 1
            self._taken = True
        with self._held():
            yield

    @contextmanager
    def in_between(self) -> Iterator[None]:
        """Wait until no pass has or wants the turn; while open, nobody else has it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._passes_waiting)
            self._taken = True
        with self._held():
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()
