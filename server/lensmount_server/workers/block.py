"""The memory that a worker process shares with the server.

A file without a name (memfd_create(2)) that is cut into blocks, one for each feed: counters that
can be read when the worker has been killed, and room for what is too large for a message. It is
sparse: what nobody wrote costs nothing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

from lensmount_server.video.account import AccountState, Drops

BLOCKS = 64
_MIB = 1 << 20
BLOCK_BYTES = 64 * _MIB
# Frames on their way out, what was asked for afterwards, packets on their way in.
FRAME_AT, FRAME_BYTES = 4096, 40 * _MIB - 4096
LATER_AT = 40 * _MIB
PACKET_AT, PACKET_BYTES = 48 * _MIB, 16 * _MIB
# A writer that writes all the time, as none does, must not keep a reader for ever.
_TRIES = 1000
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def create_memory() -> int:
    """The descriptor of a new memory of `BLOCKS` blocks, which nobody can make shorter under its readers."""
    descriptor = os.memfd_create("lensmount", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, BLOCKS * BLOCK_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


@dataclass(frozen=True)
class Counters:
    """What a feed tells while it runs and what stays readable after its process died.

    `pts_ns` is that of the last frame, `width` and `height` are its pixels, `frame_time_ns` is Unix time; `busy_ns`
    is when its reader last asked FFmpeg for something that has not come back (monotonic; 0: it has).
    """

    decoded: int = 0
    superseded: int = 0
    rate: int = 0
    broken: int = 0
    skipped: int = 0
    pts_ns: int = 0
    width: int = 0
    height: int = 0
    frame_time_ns: int = 0
    busy_ns: int = 0

    @property
    def account(self) -> AccountState:
        """As an account: what still waits in the worker is in flight."""
        drops = Drops(superseded=self.superseded, rate=self.rate, decode=self.broken)
        return AccountState(self.decoded, 0, drops)


NAMES = tuple(field.name for field in fields(Counters))
_PLACES = {name: place for place, name in enumerate(NAMES)}


class Block:
    """One feed's part of the memory, mapped by both sides. The worker writes the counters."""

    def __init__(self, descriptor: int, number: int) -> None:
        self._map = mmap.mmap(descriptor, BLOCK_BYTES, offset=number * BLOCK_BYTES)
        self._view = memoryview(self._map)
        # The number of writes, then two copies of the counters; each item is stored at once.
        self._words = self._view[: 8 * (1 + 2 * len(NAMES))].cast("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, start: int, size: int) -> bytearray:
        """A copy of `size` bytes."""
        return bytearray(self._view[start : start + size])

    def write(self, start: int, data: bytes | bytearray | memoryview) -> int:
        """Copies `data` there; returns where it ends."""
        end = start + len(data)
        self._view[start:end] = data
        return end

    def counters(self) -> Counters:
        """The counters now, all of one moment."""
        for _ in range(_TRIES):
            written = self._words[0]
            words = self._copy(written).tolist()
            if self._words[0] == written:
                break
        return Counters(*words)

    def put(self, words: Sequence[int]) -> None:
        """Writes the counters, in the order of `NAMES`. One thread at a time."""
        written = self._words[0] + 1
        copy = self._copy(written)
        for place, word in enumerate(words):
            copy[place] = word
        self._words[0] = written

    def _copy(self, written: int) -> memoryview:
        """Of the two copies that which the write of that number goes to, while readers have the other."""
        first = 1 + written % 2 * len(NAMES)
        return self._words[first : first + len(NAMES)]

    def forget(self) -> None:
        """Gives its pages back: the next feed finds zeros."""
        self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Unmaps it."""
        self._words.release()
        self._view.release()
        self._map.close()


class Tally:
    """The worker's hand on a block's counters, for its several threads."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._lock = threading.Lock()
        self._words = [0] * len(NAMES)

    def update(self, **changed: int) -> None:
        """Sets some of them."""
        with self._lock:
            for name, value in changed.items():
                self._words[_PLACES[name]] = value
            self._block.put(self._words)

    def busy(self, inside: bool) -> None:
        """Notes that FFmpeg was given something, or has come back."""
        self.update(busy_ns=time.monotonic_ns() if inside else 0)

    def account(self, state: AccountState) -> None:
        """Takes over what an account says."""
        drops = state.dropped
        self.update(
            decoded=state.decoded,
            superseded=drops.superseded,
            rate=drops.rate,
            broken=drops.decode,
        )
