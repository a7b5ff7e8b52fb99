"""From what a batch's frames want to which rows run: pure, no tensor is touched.

Adapters that leave the first segments alone share them, so a batch runs as a trie over
segments: one shared row per frame, and from an adapter's fork on a row of its own.
Mainstream (Jiang et al., ATC 2018) showed what that is worth.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.preprocessing import Preprocessing


@dataclass(frozen=True)
class Group:
    """The rows of one adapter: the positions, in the pass, of the frames that want it."""

    adapter: Adapter
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """One run through the backbone: frames (by their place in the batch) of one preprocessing.

    `until_s` (perf_counter) is when nobody waits for it any more.
    """

    preprocessing: Preprocessing
    frames: tuple[int, ...]
    groups: tuple[Group, ...]
    until_s: float = inf

    @property
    def forks(self) -> tuple[int, ...]:
        """Where groups leave the shared rows, in ascending order, each once."""
        return tuple(sorted({group.adapter.fork for group in self.groups}))

    def shared_after(self, segment: int) -> tuple[int, ...]:
        """The frames whose shared row must still run through `segment`."""
        wanted = {frame for group in self.groups if group.adapter.fork > segment for frame in group.frames}
        return tuple(sorted(wanted))


def plan(wanted: Iterable[tuple[int, Adapter]]) -> tuple[Pass, ...]:
    """Group (frame, adapter) pairs into passes; a pair that comes twice is one row.

    The groups of a pass come by fork, then by content hash: their order does not depend on the pairs'.
    """
    by_preprocessing: dict[Preprocessing, dict[str, tuple[Adapter, set[int]]]] = {}
    for frame, adapter in wanted:
        adapters = by_preprocessing.setdefault(adapter.manifest.preprocessing, {})
        adapters.setdefault(adapter.content_hash, (adapter, set()))[1].add(frame)
    return tuple(_pass(preprocessing, list(adapters.values())) for preprocessing, adapters in by_preprocessing.items())


def _pass(preprocessing: Preprocessing, adapters: list[tuple[Adapter, set[int]]]) -> Pass:
    frames = tuple(sorted(set().union(*(wanting for _, wanting in adapters))))
    position = {frame: i for i, frame in enumerate(frames)}
    groups = (Group(adapter, tuple(position[frame] for frame in sorted(wanting))) for adapter, wanting in adapters)
    return Pass(preprocessing, frames, tuple(sorted(groups, key=_order)))


def _order(group: Group) -> tuple[int, str]:
    return group.adapter.fork, group.adapter.content_hash
