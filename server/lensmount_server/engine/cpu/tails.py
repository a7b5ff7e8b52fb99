"""Merged tails: private copies of an adapter's edited segments, with nothing left to add.

A tail is merged and compiled by one thread of the lowest priority while its adapter already
answers in LoRA form. What does not fit into the budget is dropped, least recently used first,
and answers in LoRA form again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable

from lensmount.errors import LensmountError
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.cpu.units import Unit

log = logging.getLogger(__name__)

LOWEST_PRIORITY = 19

Merge = Callable[[Adapter], Unit]


class Tails:
    """Content hash to compiled tail, at most `budget_bytes` of them. May be used by several threads."""

    def __init__(self, merge: Merge, budget_bytes: int) -> None:
        self._merge = merge
        self._budget = budget_bytes
        self._units: OrderedDict[str, Unit] = OrderedDict()
        self._wanted: dict[str, Adapter] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._worker = threading.Thread(target=self._work, name="merge-tails", daemon=True)
        self._worker.start()

    def want(self, adapter: Adapter) -> None:
        """Merge this adapter's tail soon, unless that is done or under way."""
        with self._lock:
            if self._budget <= 0 or adapter.content_hash in self._units or adapter.content_hash in self._wanted:
                return
            self._wanted[adapter.content_hash] = adapter
            self._idle.clear()
        self._queue.put(adapter.content_hash)

    def get(self, adapter: Adapter) -> Unit | None:
        """The adapter's tail where it is ready."""
        with self._lock:
            unit = self._units.get(adapter.content_hash)
            if unit is not None:
                self._units.move_to_end(adapter.content_hash)
            return unit

    def drop(self, content_hash: str) -> None:
        """Forget an adapter's tail; what runs on it now finishes."""
        with self._lock:
            self._wanted.pop(content_hash, None)
            self._units.pop(content_hash, None)

    def settle(self) -> None:
        """Wait until nothing is being merged."""
        self._idle.wait()

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._wanted.clear()
        self._queue.put(None)
        self._worker.join()

    @property
    def size_bytes(self) -> int:
        """What all tails take in memory."""
        with self._lock:
            return sum(unit.size_bytes for unit in self._units.values())

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        while (content_hash := self._queue.get()) is not None:
            adapter = self._wanted.get(content_hash)
            if adapter is not None:
                self._make(adapter)
            with self._lock:
                if not self._wanted:
                    self._idle.set()
        self._idle.set()

    def _make(self, adapter: Adapter) -> None:
        try:
            unit: Unit | None = self._merge(adapter)
        except LensmountError as error:
            log.warning("%s answers in LoRA form: %s", adapter.manifest.task, error)
            unit = None
        with self._lock:
            still = self._wanted.pop(adapter.content_hash, None) is not None
            if unit is not None and still and unit.size_bytes <= self._budget:
                self._units[adapter.content_hash] = unit
                self._make_room()

    def _make_room(self) -> None:
        while sum(unit.size_bytes for unit in self._units.values()) > self._budget:
            self._units.popitem(last=False)
