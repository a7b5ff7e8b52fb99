"""Rows of one shape by key, memory-mapped: made once, found again by later runs and by other processes.

A shard is a folder with `rows.npy` and `keys.txt`. It is written under another name, gets its own when it
is whole, and is never changed: a process that dies leaves nothing that anybody reads, and two that make the
same rows do it twice and disturb nobody. Keys must name the content they stand for, so that nothing is stale.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensmount.errors import InvalidInputError

ROWS, KEYS, PARTIAL = "rows.npy", "keys.txt", ".partial-"
MAX_BYTES = 24 << 30
MAX_BY_TORCH = 1 << 30
# What comes of a shard that is not whole; numpy parses the header of its files as Python.
DAMAGE = (OSError, ValueError, SyntaxError, TokenError)
# A partial shard that nobody wrote to for so long, in seconds, was left by a process that died.
ABANDONED = 24 * 3600

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
        with disk_named(folder):
            shards = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in shards:
            if not path.name.startswith("."):
                with suppress(*DAMAGE):
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
        with disk_named(self.folder):
            self._open(whole)

    def _open(self, path: Path) -> None:
        """Take a shard in; raises one of `DAMAGE` when it is damaged, deleted under our hands, or of another kind."""
        keys = (path / KEYS).read_text().split()
        rows = _mapped(path / ROWS)
        kinds = [(shard.shape[1:], shard.dtype) for shard in (rows, *self._shards[:1])]
        if len(keys) != len(rows) or kinds[0] != kinds[-1]:
            raise ValueError(f"{len(keys)} keys, rows {rows.shape} of {rows.dtype}, not like the others")
        os.utime(path)
        self._shards.append(rows)
        self._places.update({key: (len(self._shards) - 1, place) for place, key in enumerate(keys)})


def _mapped(path: Path) -> Array:
    """The rows of a file, read-only; raises one of `DAMAGE` unless the file is whole.

    Python keeps a file open as long as it is mapped, and a thousand shards are more than a process may open. torch
    closes it; but the system may refuse its kind of mapping when one is larger than the memory.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path} has another version of the format: {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    if fortran or dtype.hasobject or size != start + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path} is not whole")
    if size > MAX_BY_TORCH:
        return np.memmap(path, dtype, "r", start, shape)
    try:
        whole = torch.from_file(os.fspath(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        raise OSError(f"{path} can not be mapped: {error}") from error
    rows: Array = whole[start:].view(dtype).reshape(shape)
    rows.flags.writeable = False
    return rows


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
        message = f"the cache can not be used: {error.strerror or error}"
        fix = "free some space, or give a --cache folder on another disk"
        raise InvalidInputError(message, field="cache", value=folder, fix=fix) from error


def prune(cache: Path, keep: int = MAX_BYTES) -> int:
    """Delete the shards below `cache` that were not used for longest until at most `keep` bytes are left.

    Those that a process has mapped stay readable to it. What a process that died left half-written goes in any case.
    Returns the bytes that were freed.
    """
    shards = [Path(folder) for folder, _, files in os.walk(cache) if ROWS in files]
    sizes = {shard: size for shard in shards if (size := _size(shard)) is not None}
    partial = [shard for shard in sizes if shard.name.startswith(PARTIAL)]
    gone = [shard for shard in partial if _used(shard / ROWS) < time.time() - ABANDONED]
    whole = sorted(sizes.keys() - partial, key=_used)
    excess = sum(sizes[shard] for shard in whole) - keep
    for shard in whole:
        if excess <= 0:
            break
        excess -= sizes[shard]
        gone.append(shard)
    for shard in gone:
        shutil.rmtree(shard, ignore_errors=True)
    return sum(sizes[shard] for shard in gone)


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
