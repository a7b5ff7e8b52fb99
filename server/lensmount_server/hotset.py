"""The hot set: the adapters that are in memory and warm, the least recently used one leaving first.

Two things keep an adapter here. A *lease* is held by whoever has rows of it under way, or
waits for it to be loaded; a *pin* by whoever will want it again, such as an open stream.
What is leased or pinned is never dropped: where all of it is, the set is larger than its
limits until something is let go. Pure bookkeeping on one event loop: nothing here loads,
waits or locks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lensmount_adapters.adapter import Adapter
from lensmount_server.frames import VersionId

K = TypeVar("K")

# A version by its task and number: how those name it who have not loaded it.
Number = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Mounted:
    """An adapter in memory and the version that it is."""

    id: VersionId
    adapter: Adapter

    @property
    def number(self) -> Number:
        """Its task and its number within it."""
        return self.id.task, self.id.version


@dataclass(frozen=True)
class HotLimits:
    """How many adapters may be hot, and how many bytes their tensors may take together."""

    count: int = 256
    size_bytes: int = 4 << 30


class HotSet:
    """Hot adapters by content hash; `on_evicted` is told of each one that leaves."""

    def __init__(self, limits: HotLimits | None = None) -> None:
        self.limits = limits or HotLimits()
        self.on_evicted: Callable[[Mounted], None] | None = None
        self.evictions = 0
        self._hot: OrderedDict[str, Mounted] = OrderedDict()
        self._numbers: dict[Number, str] = {}
        self._bytes = 0
        self._leases: Counter[str] = Counter()
        self._pins: Counter[Number] = Counter()
        self._doomed: set[Number] = set()

    def __len__(self) -> int:
        return len(self._hot)

    def __iter__(self) -> Iterator[Mounted]:
        return iter(self._hot.values())

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._hot

    @property
    def size_bytes(self) -> int:
        """What the tensors of all that is hot take."""
        return self._bytes

    @property
    def leased(self) -> frozenset[str]:
        """The hashes that somebody holds, hot or on their way."""
        return frozenset(self._leases)

    @property
    def pinned(self) -> frozenset[Number]:
        """The versions that are not to leave, hot or not."""
        return frozenset(self._pins)

    def find(self, content_hash: str) -> Mounted | None:
        """The adapter of this content, as used just now; None while it is not hot."""
        found = self._hot.get(content_hash)
        if found is not None:
            self._hot.move_to_end(content_hash)
        return found

    def numbered(self, number: Number) -> Mounted | None:
        """The same by task and number."""
        return self.find(self._numbers.get(number, ""))

    def put(self, mounted: Mounted) -> None:
        """Make an adapter hot, at the expense of the least recently used; one that is hot stays as it is.

        Content that was deleted and registered again has another number: that is its name from now on.
        """
        content_hash = mounted.id.content_hash
        known = self.find(content_hash)
        if known is not None and known.id != mounted.id:
            del self._numbers[known.number]
            self._doomed.discard(known.number)
            self._hot[content_hash] = mounted
            self._numbers[mounted.number] = content_hash
        elif known is None:
            self._hot[content_hash] = mounted
            self._numbers[mounted.number] = content_hash
            self._bytes += mounted.adapter.size_bytes
        self._trim()

    def lease(self, content_hash: str) -> None:
        """Hold a version; it may still be on its way."""
        self._leases[content_hash] += 1

    def release(self, content_hash: str) -> None:
        """Let go of a lease."""
        _take(self._leases, content_hash, 1)
        self._trim()

    def pin(self, number: Number, times: int = 1) -> None:
        """Keep a version from leaving until it is unpinned as often; it may still be on its way."""
        self._pins[number] += times

    def unpin(self, number: Number, times: int = 1) -> None:
        """Take pins back."""
        _take(self._pins, number, times)
        self._trim()

    def doom(self, number: Number) -> None:
        """Have a version leave as soon as nobody holds it, whatever pins it has."""
        if number in self._numbers:
            self._doomed.add(number)
            self._trim()

    def _trim(self) -> None:
        for number in [each for each in self._doomed if self._numbers[each] not in self._leases]:
            self._doomed.discard(number)
            self._evict(self._hot[self._numbers[number]])
        while self._over() and (victim := self._victim()) is not None:
            self._evict(victim)

    def _over(self) -> bool:
        return len(self._hot) > self.limits.count or self._bytes > self.limits.size_bytes

    def _victim(self) -> Mounted | None:
        free = (
            mounted
            for content_hash, mounted in self._hot.items()
            if content_hash not in self._leases and mounted.number not in self._pins
        )
        return next(free, None)

    def _evict(self, mounted: Mounted) -> None:
        del self._hot[mounted.id.content_hash]
        del self._numbers[mounted.number]
        self._doomed.discard(mounted.number)
        self._bytes -= mounted.adapter.size_bytes
        self.evictions += 1
        if self.on_evicted is not None:
            self.on_evicted(mounted)


def _take(counter: Counter[K], key: K, times: int) -> None:
    counter[key] -= times
    if counter[key] <= 0:
        del counter[key]
