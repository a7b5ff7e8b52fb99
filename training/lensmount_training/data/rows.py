"""Rows of one shape by key, memory-mapped: made once, found again by later runs and by other processes.

A shard is a folder with `rows.npy` and `keys.txt`. It is written under another name, gets its own when it
is whole, and is never changed: a process that dies leaves nothing that anybody reads, and two that make the
same rows do it twice and disturb nobody. Keys must name the content they stand for, so that nothing is stale.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensmount.errors import InvalidInputError

ROWS, KEYS, PARTIAL = "rows.npy", "keys.txt", ".partial-"
MAX_BYTES = 24 << 30

Array = NDArray[Any]


class Rows(Protocol):
    """Rows in a fixed order; a tensor is one of them."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, index: Any, /) -> Tensor:
        """Those of a slice or of an int64 tensor, stacked: (rows, …)."""


@dataclass(frozen=True, eq=False)
class MappedRows:
    """Rows that lie in memory-mapped shards; what is asked for is copied."""

    shards: tuple[Array, ...]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        wanted = self.places[index.numpy() if isinstance(index, Tensor) else index]
        out = np.empty((len(wanted), *self.shards[0].shape[1:]), self.shards[0].dtype)
        for shard in np.unique(wanted[:, 0]):
            own = wanted[:, 0] == shard
            out[own] = self.shards[shard][wanted[own, 1]]
        return torch.from_numpy(out)


class RowStore:
    """The shards of one folder. Cheap to open; what other processes add meanwhile is seen when it is opened anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[Array] = []
        self._places: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.name.startswith("."):
                self._open(path)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are not there, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._places]

    def rows(self, keys: Sequence[str]) -> MappedRows:
        """The rows of these keys, which are all there."""
        places = np.array([self._places[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        return MappedRows(tuple(self._shards), places)

    @contextmanager
    def added(self, keys: Sequence[str], shape: Sequence[int], dtype: Any) -> Iterator[Array]:
        """Room for the rows of these keys, (keys, *shape), to be filled; they are there when the context ends well.

        Raises InvalidInputError when the disk can not hold them.
        """
        with disk_named(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=self.folder))
        try:
            with disk_named(self.folder):
                room = _room(partial / ROWS, (len(keys), *shape), dtype)
            yield room
            with disk_named(self.folder):
                room.flush()
                (partial / KEYS).write_text("".join(f"{key}\n" for key in keys))
                whole = partial.rename(self.folder / uuid.uuid4().hex)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._open(whole)

    def _open(self, path: Path) -> None:
        """Take a shard in; one that is damaged, or deleted under our hands, is as if it were not there."""
        with suppress(OSError, ValueError):
            keys = (path / KEYS).read_text().split()
            rows = np.load(path / ROWS, mmap_mode="r", allow_pickle=False)
            if len(keys) == len(rows) and (not self._shards or self._shards[0].shape[1:] == rows.shape[1:]):
                os.utime(path)
                self._shards.append(rows)
                self._places.update({key: (len(self._shards) - 1, place) for place, key in enumerate(keys)})


def _room(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap[Any, Any]:
    """A new file of that size, its blocks taken from the disk at once: writing to a hole of a full disk is a SIGBUS."""
    room: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, max(path.stat().st_size, 1))
    return room


@contextmanager
def disk_named(folder: Path) -> Iterator[None]:
    """Errors of the operating system become one that names the cache and says what to do."""
    try:
        yield
    except OSError as error:
        message = f"the cache can not be written: {error.strerror}"
        fix = "free some space, or give a --cache folder on another disk"
        raise InvalidInputError(message, field="cache", value=folder, fix=fix) from error


def prune(cache: Path, keep: int = MAX_BYTES) -> int:
    """Delete the shards below `cache` that were not used for longest until at most `keep` bytes are left.

    Those that a process has mapped stay readable to it. Returns the bytes that were freed.
    """
    shards = [path.parent for path in cache.rglob(ROWS) if not path.parent.name.startswith(".")]
    sizes = {shard: size for shard in shards if (size := _size(shard)) is not None}
    freed, excess = 0, sum(sizes.values()) - keep
    for shard in sorted(sizes, key=_used):
        if freed >= excess:
            break
        shutil.rmtree(shard, ignore_errors=True)
        freed += sizes[shard]
    return freed


def _size(shard: Path) -> int | None:
    try:
        return sum(path.stat().st_size for path in shard.iterdir())
    except OSError:
        return None


def _used(shard: Path) -> float:
    try:
        return shard.stat().st_mtime
    except OSError:
        return 0.0
