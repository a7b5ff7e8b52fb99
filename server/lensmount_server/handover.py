"""One thread for work that an event loop hands over, with as little as possible on the way.

A `ThreadPoolExecutor` makes two futures for each piece of work, and copies one into the other by callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

P = TypeVar("P")
T = TypeVar("T")


class Handover(Generic[P, T]):
    """Runs `work` in a thread of its own, one piece after the other; lives on one event loop."""

    def __init__(self, work: Callable[[P], T], name: str) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._pieces: SimpleQueue[tuple[P, asyncio.Future[T]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, piece: P) -> asyncio.Future[T]:
        """What the work makes of a piece, or the exception that it raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._pieces.put((piece, future))
        return future

    def close(self) -> None:
        """Finish what was handed over, and end the thread. Blocks."""
        self._pieces.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (next_one := self._pieces.get()) is not None:
            piece, future = next_one
            try:
                tell: tuple[Callable[..., None], Any] = _answer, self._work(piece)
            except BaseException as error:  # noqa: BLE001 - whoever waits for it decides
                tell = _fail, error
            with suppress(RuntimeError):  # the loop was closed, and nobody waits any more
                self._loop.call_soon_threadsafe(tell[0], future, tell[1])
            del next_one, piece, future, tell


def _answer(future: asyncio.Future[T], made: T) -> None:
    if not future.done():
        future.set_result(made)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
