"""LoRA forms, compiled once for every structure: which modules are edited, and up to which rank.

A compiled form takes A and B as inputs, so an adapter of a known structure, as a task's next version
nearly always is, is as fast as it needs to be without any compiling. It costs a quarter more than
a merged tail (docs/performance.md), which is made for those that are asked often.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lensmount.errors import ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.cpu.background import BackgroundThread
from lensmount_server.engine.cpu.units import LoraUnit, Unit
from lensmount_server.engine.ranges import SegmentRange

log = logging.getLogger(__name__)

# No further structure is compiled while those that are kept take so much memory.
ENOUGH_BYTES = 512 << 20
# Ranks are filled up to the next power of two from here on, for fewer structures.
SMALLEST_RANK = 8


@dataclass(frozen=True)
class Structure:
    """What a compiled form depends on: everything of an adapter's edits but their values."""

    range_: SegmentRange
    ranks: tuple[tuple[str, int], ...]


@dataclass
class Bound:
    """An adapter's tail in compiled LoRA form, and the rows that it has answered."""

    adapter: Adapter
    structure: Structure
    unit: Unit
    rows: int = 0


Compile = Callable[[Structure, Adapter], LoraUnit | None]


class LoraForms:
    """Adapters bound to the compiled form of their structure, by content hash. May be used by several threads.

    `make` compiles a structure's form, of which an adapter is an example; None where there can be none.
    """

    def __init__(self, make: Compile, segments: int) -> None:
        self._compile = make
        self._segments = segments
        self._forms: OrderedDict[Structure, LoraUnit] = OrderedDict()
        self._bound: dict[str, Bound] = {}
        self._lock = threading.Lock()
        self._thread = BackgroundThread("compile-lora")

    def mount(self, adapter: Adapter) -> Unit | None:
        """The adapter's tail in compiled LoRA form, or None. Blocks while a new structure is compiled."""
        structure = structure_of(adapter, self._segments)
        if structure is None:
            return None
        unit = self._bind(structure, adapter)
        if unit is None:
            self._thread.run(self._make, structure, adapter)
            unit = self._bind(structure, adapter)
        return unit

    def get(self, content_hash: str) -> Bound | None:
        """The tail of an adapter that is mounted, where it has such a form."""
        return self._bound.get(content_hash)

    def unmount(self, content_hash: str) -> None:
        """Forget an adapter; the form of its structure stays for the next one."""
        with self._lock:
            self._bound.pop(content_hash, None)

    def close(self) -> None:
        """End the thread and forget all forms."""
        self._thread.close()
        self._bound.clear()
        self._forms.clear()

    def _bind(self, structure: Structure, adapter: Adapter) -> Unit | None:
        with self._lock:
            form = self._forms.get(structure)
            if form is None:
                return None
            self._forms.move_to_end(structure)
            unit = form.bind(adapter.deltas)
            self._bound[adapter.content_hash] = Bound(adapter, structure, unit)
            return unit

    def _make(self, structure: Structure, adapter: Adapter) -> None:
        with self._lock:
            if structure in self._forms or not self._has_room():
                return
        try:
            form = self._compile(structure, adapter)
        except ServerError as error:
            log.warning("%s has no compiled LoRA form: %s", adapter.manifest.task, error)
            return
        if form is not None:
            with self._lock:
                self._forms[structure] = form

    def _has_room(self) -> bool:
        """Whether one more structure may be kept; those that nobody uses leave for it, bound longest ago first."""
        used = {bound.structure for bound in self._bound.values()}
        idle = [structure for structure in self._forms if structure not in used]
        while sum(form.size_bytes for form in self._forms.values()) >= ENOUGH_BYTES and idle:
            del self._forms[idle.pop(0)]
        return sum(form.size_bytes for form in self._forms.values()) < ENOUGH_BYTES


def structure_of(adapter: Adapter, segments: int) -> Structure | None:
    """The structure of an adapter whose edits are A and B only; None for any other."""
    deltas = adapter.deltas
    if adapter.replaced or not deltas or any(delta.bias is not None for delta in deltas.values()):
        return None
    ranks = {name: _filled(delta.a.shape[0]) for name, delta in deltas.items()}
    range_ = SegmentRange(adapter.fork, segments, adapter.manifest.preprocessing)
    return Structure(range_, tuple(sorted(ranks.items())))


def _filled(rank: int) -> int:
    return max(SMALLEST_RANK, 1 << (rank - 1).bit_length())
