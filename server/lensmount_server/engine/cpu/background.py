"""Compiling beside an engine that answers: at the lowest priority, where the process may leave that again.

Threads inherit their priority from whoever starts them, and those that a compiler starts run the
compiled code later. So they are given the priority back that the compiling thread had. A process
that may lower its priority but not raise it again (an ordinary user, nice(2)) compiles at the priority
of everybody: slower frames for half a second are better than slow ones for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

LOWEST = 19
TASKS = Path("/proc/self/task")


class BackgroundThread:
    """A thread that compiles for others, whose own priority does not matter: it is started with this one's."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._thread.submit(int).result()  # a thread inherits from whoever starts it: that is now

    def run(self, work: Callable[..., object], *arguments: object) -> None:
        """Call `work` in the background. Blocks; raises what it raises."""
        self._thread.submit(_call, work, *arguments).result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


def _call(work: Callable[..., object], *arguments: object) -> None:
    with in_background():
        work(*arguments)


@contextmanager
def in_background() -> Iterator[None]:
    """While open, this thread has the lowest priority; it and what it started have its own afterwards."""
    if not may_return():
        yield
        return
    own, usual, before = threading.get_native_id(), _priority(0), _threads()
    _set(own, LOWEST)
    try:
        yield
    finally:
        for thread in {own, *(_threads() - before)}:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                if _priority(thread) == LOWEST:
                    _set(thread, usual)


@cache
def may_return() -> bool:
    """Whether a thread of this process can come back from the lowest priority; tried out on one that ends."""
    if not TASKS.is_dir():
        return False
    with ThreadPoolExecutor(1) as trial:
        return trial.submit(_there_and_back).result()


def _there_and_back() -> bool:
    usual = _priority(0)
    _set(0, LOWEST)
    try:
        _set(0, usual)
    except PermissionError:
        return False
    return True


def _threads() -> set[int]:
    return {int(task.name) for task in TASKS.iterdir()}


def _priority(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def _set(thread: int, priority: int) -> None:
    os.setpriority(os.PRIO_PROCESS, thread, priority)
