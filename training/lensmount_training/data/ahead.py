"""Work on some threads, a few items ahead, results in order: pictures are too large to have all at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 2


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = THREADS
) -> Iterator[tuple[Item, Result]]:
    """Every item with its result."""
    with ThreadPoolExecutor(threads) as pool:
        upcoming = ((item, pool.submit(work, item)) for item in items)
        waiting = deque(islice(upcoming, 2 * threads))
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
            waiting.extend(islice(upcoming, 1))
