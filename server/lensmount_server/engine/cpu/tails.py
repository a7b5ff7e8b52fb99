"""Merged tails: private copies of an adapter's edited segments, with nothing left to add.

A tail is merged and compiled by one thread while its adapter already answers in LoRA form.
What does not fit into the budget is dropped, least recently used first, and answers in LoRA
form again; but a tail in use is never dropped for another, or more hot adapters than fit
would be compiled in turn for ever, unless somebody waits for the other (`settle`). A tail
that could not be merged is not tried again.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from lensmount_adapters.adapter import Adapter
from lensmount_server.defects import known
from lensmount_server.engine.cpu.background import in_background
from lensmount_server.engine.cpu.units import Unit

log = logging.getLogger(__name__)

# A tail that ran in the last so many seconds is in use.
IN_USE_S = 10.0

_NEXT, _LATER = 0, 1

Merge = Callable[[Adapter], Unit]
Clock = Callable[[], float]


@dataclass(frozen=True)
class _Tail:
    unit: Unit
    used: float


class Tails:
    """Content hash to compiled tail, at most `budget_bytes` of them. May be used by several threads."""

    def __init__(self, merge: Merge, budget_bytes: int, clock: Clock = time.monotonic) -> None:
        self._merge = merge
        self._budget = budget_bytes
        self._clock = clock
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._wanted: dict[str, Adapter] = {}
        self._waited_for: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}  # of what was tried; beyond the budget where merging failed
        self._lock = threading.Lock()
        self._numbers = count()
        self._queue: queue.PriorityQueue[tuple[int, int, str]] = queue.PriorityQueue()
        self._changed = threading.Condition(self._lock)
        self._worker = threading.Thread(target=self._work, name="merge-tails", daemon=True)
        self._worker.start()

    def want(self, adapter: Adapter) -> None:
        """Merge this adapter's tail soon, unless that is done, under way, or known to fail or not to fit now."""
        content_hash = adapter.content_hash
        with self._lock:
            if self._budget <= 0 or content_hash in self._tails or content_hash in self._wanted:
                return
            if self._sizes.get(content_hash, 0) > self._room():
                return
            self._wanted[content_hash] = adapter
        self._queue.put((_LATER, next(self._numbers), content_hash))

    def get(self, adapter: Adapter) -> Unit | None:
        """The adapter's tail where it is ready."""
        with self._lock:
            tail = self._tails.get(adapter.content_hash)
            if tail is None:
                return None
            self._keep(adapter.content_hash, tail.unit)
            return tail.unit

    def drop(self, content_hash: str) -> None:
        """Forget an adapter's tail, and that it failed; what runs on it now finishes."""
        with self._freed() as freed:
            self._wanted.pop(content_hash, None)
            freed.append(self._tails.pop(content_hash, None))
            self._sizes.pop(content_hash, None)
            self._changed.notify_all()

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until this adapter's tail, which is merged next, is there or can not be; without a name for all."""
        with self._changed:
            self._waited_for[content_hash] += 1
            if content_hash in self._wanted:
                self._queue.put((_NEXT, next(self._numbers), content_hash))
            self._changed.wait_for(lambda: not self._pending(content_hash), timeout_s)
            self._waited_for -= Counter([content_hash])

    def close(self) -> None:
        """End the thread and forget all tails."""
        with self._lock:
            self._wanted.clear()
            self._changed.notify_all()
        self._queue.put((_LATER, next(self._numbers), ""))
        self._worker.join()
        with self._lock:
            self._tails.clear()

    @property
    def size_bytes(self) -> int:
        """What all tails take in memory."""
        with self._lock:
            return self._size()

    def _work(self) -> None:
        while content_hash := self._queue.get()[-1]:
            adapter = self._wanted.get(content_hash)
            if adapter is not None:
                with in_background():
                    self._make(adapter)

    def _make(self, adapter: Adapter) -> None:
        unit, size = None, self._budget + 1
        try:
            unit = self._merge(adapter)
            size = unit.size_bytes
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises: the adapter answers without it
            log.warning("%s answers in LoRA form: %s", adapter.manifest.task, known(error))
        with self._freed() as freed:
            if self._wanted.pop(adapter.content_hash, None) is None:
                return
            self._changed.notify_all()
            self._sizes[adapter.content_hash] = size
            room = self._budget if self._waited_for[adapter.content_hash] else self._room()
            if unit is not None and size <= room:
                self._keep(adapter.content_hash, unit)
                freed.extend(self._make_room())

    def _pending(self, content_hash: str) -> bool:
        return content_hash in self._wanted if content_hash else bool(self._wanted)

    def _keep(self, content_hash: str, unit: Unit) -> None:
        """Note that a tail is in use; the others lie before it."""
        self._tails[content_hash] = _Tail(unit, self._clock())
        self._tails.move_to_end(content_hash)

    def _room(self) -> int:
        """Bytes beside the tails in use."""
        since = self._clock() - IN_USE_S
        return self._budget - sum(tail.unit.size_bytes for tail in self._tails.values() if tail.used > since)

    def _make_room(self) -> list[_Tail]:
        """Take the tails out that ran longest ago, until the rest fits."""
        taken = []
        while self._size() > self._budget:
            taken.append(self._tails.popitem(last=False)[1])
        return taken

    @contextmanager
    def _freed(self) -> Iterator[list[_Tail | None]]:
        """The lock, and a list whose tails are freed after it: that takes a compiler as long as three frames."""
        freed: list[_Tail | None] = []
        with self._lock:
            yield freed
        freed.clear()

    def _size(self) -> int:
        return sum(tail.unit.size_bytes for tail in self._tails.values())
