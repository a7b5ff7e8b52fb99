"""The shared trunk, cut at the forks of the adapters that are mounted, each part compiled once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.background import in_background
from lensmount_server.engine.cpu.units import Compiler, Options, SegmentRange, Unit

Parts = dict[SegmentRange, Unit]


class Trunk:
    """Units for the segments before a fork. Parts are replaced as a whole: a pass never sees half of a new cut.

    A thread of its own compiles: the threads that will run a part inherit the priority of the one that
    compiled it, and whoever asks for a cut may have a low one.
    """

    def __init__(self, compiler: Compiler, segments: int, options: Options) -> None:
        self._compiler = compiler
        self._segments = segments
        self._options = options
        self._parts: dict[Preprocessing, Parts] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cut-trunk")
        self._thread.submit(int).result()  # a thread inherits from whoever starts it: that is now

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Make sure that there is a border at `fork`. Blocks while it compiles."""
        self._thread.submit(self._cut, fork, preprocessing).result()

    def _cut(self, fork: int, preprocessing: Preprocessing) -> None:
        parts = self._parts.get(preprocessing, {})
        wanted = _ranges({0, fork, self._segments, *(part.start for part in parts)}, preprocessing)
        with in_background():
            made = {range_: parts.get(range_) or self._compiler.compile(range_, self._options) for range_ in wanted}
        self._parts = {**self._parts, preprocessing: made}

    def units(self, start: int, stop: int, preprocessing: Preprocessing) -> list[tuple[SegmentRange, Unit]]:
        """The parts from border `start` to border `stop`, in order."""
        parts = self._parts.get(preprocessing, {})
        path = [(range_, unit) for range_, unit in parts.items() if start <= range_.start and range_.stop <= stop]
        if sum(len(range_) for range_, _ in path) != stop - start:
            self.cut(start, preprocessing)
            self.cut(stop, preprocessing)
            return self.units(start, stop, preprocessing)
        return path

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    @property
    def size_bytes(self) -> int:
        """What the compiled parts take in memory."""
        return sum(unit.size_bytes for parts in self._parts.values() for unit in parts.values())


def _ranges(borders: set[int], preprocessing: Preprocessing) -> list[SegmentRange]:
    ordered = sorted(borders)
    return [SegmentRange(a, b, preprocessing) for a, b in pairwise(ordered)]
