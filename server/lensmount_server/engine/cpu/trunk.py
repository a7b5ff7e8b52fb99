"""The shared trunk, cut at the forks of the adapters that are mounted, each part compiled once."""

from __future__ import annotations

from itertools import pairwise

from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.background import BackgroundThread
from lensmount_server.engine.cpu.units import Compiler, Options, Unit
from lensmount_server.engine.ranges import SegmentRange

Parts = dict[SegmentRange, Unit]


class Trunk:
    """Units for the segments before a fork. The table of parts is replaced as a whole: a pass never sees half of a cut.

    Parts are only added. What runs to a border in one part goes on doing so when another border comes in
    between; the smaller parts are for passes that need rows at both.

    A thread of its own compiles: the threads that will run a part inherit the priority of the one that
    compiled it, and whoever asks for a cut may have a low one.
    """

    def __init__(self, compiler: Compiler, segments: int, options: Options) -> None:
        self._compiler = compiler
        self._segments = segments
        self._options = options
        self._parts: dict[Preprocessing, Parts] = {}
        self._thread = BackgroundThread("cut-trunk")

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Make sure that there is a border at `fork`. Blocks while it compiles."""
        self._thread.run(self._cut, fork, preprocessing)

    def _cut(self, fork: int, preprocessing: Preprocessing) -> None:
        parts = self._parts.get(preprocessing, {})
        borders = {0, fork, self._segments, *(part.start for part in parts)}
        missing = [range_ for range_ in _ranges(borders, preprocessing) if range_ not in parts]
        made = {range_: self._compiler.compile(range_, self._options) for range_ in missing}
        self._parts = {**self._parts, preprocessing: {**parts, **made}}

    def units(self, start: int, stop: int, preprocessing: Preprocessing) -> list[tuple[SegmentRange, Unit]]:
        """The parts from border `start` to border `stop`, in order, as few as there are."""
        path = _path(self._parts.get(preprocessing, {}), start, stop)
        if path is None:
            self.cut(start, preprocessing)
            self.cut(stop, preprocessing)
            return self.units(start, stop, preprocessing)
        return path

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    @property
    def size_bytes(self) -> int:
        """What the compiled parts take in memory."""
        return sum(unit.size_bytes for parts in self._parts.values() for unit in parts.values())


def _ranges(borders: set[int], preprocessing: Preprocessing) -> list[SegmentRange]:
    ordered = sorted(borders)
    return [SegmentRange(a, b, preprocessing) for a, b in pairwise(ordered)]


def _path(parts: Parts, start: int, stop: int) -> list[tuple[SegmentRange, Unit]] | None:
    """The longest part that does not go too far, and so on: the smallest ones always lead to the end."""
    path = []
    while start < stop:
        ahead = [part for part in parts if part.start == start and part.stop <= stop]
        if not ahead:
            return None
        longest = max(ahead, key=len)
        path.append((longest, parts[longest]))
        start = longest.stop
    return path
