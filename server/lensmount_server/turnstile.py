"""Frames of one source go on in the order in which they came, though they are made ready side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Turnstile:
    """Lets through what is ready once all that came before it, from the same source, is through or has failed.

    It belongs to one event loop. Whoever is let through goes on without a pause before the next one is.
    """

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}

    async def through(self, source: str, making: Awaitable[T]) -> T:
        """What `making` gives, in turn. Raises what it raises."""
        before, mine = self._last.get(source), asyncio.get_running_loop().create_future()
        self._last[source] = mine
        try:
            made = await making
            if before is not None:
                await asyncio.wait([before])
            return made
        finally:
            if before is None or before.done():
                self._open(source, mine)
            else:  # it failed or was given up; who comes after it still waits for those before it
                before.add_done_callback(lambda _: self._open(source, mine))

    def _open(self, source: str, mine: asyncio.Future[None]) -> None:
        mine.set_result(None)
        if self._last[source] is mine:
            del self._last[source]
