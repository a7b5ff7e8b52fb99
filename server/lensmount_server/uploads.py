"""Uploads that broke off: what came is kept for a day, and the next call goes on where it ended.

An archive is known by its size and SHA-256, both told before its first byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import ConflictError, InvalidInputError, UnavailableError

MAX_KEPT = 16
MAX_AGE_S = 24 * 3600.0
# What the server needs for itself beside an archive and its unpacked files.
ROOM_BYTES = 64 << 20


@dataclass(frozen=True)
class Announced:
    """What a client says of an archive before it sends it."""

    size_bytes: int
    sha256: str


class Uploads:
    """Archives on their way, in a folder of the data directory. Lives on the event loop; only `free` takes time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: dict[Announced, asyncio.Event] = {}

    def received(self, announced: Announced) -> int:
        """How many bytes of an archive are here."""
        try:
            return self._path(announced).stat().st_size
        except OSError:
            return 0

    async def free(self, announced: Announced, timeout_s: float) -> None:
        """Wait until no call sends this archive any more, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (ended := self._taken.get(announced)) is not None:
                    await ended.wait()

    @contextmanager
    def receiving(self, announced: Announced, offset: int) -> Iterator[Path]:
        """A file for the archive, `offset` bytes of which are there; it stays until `discard`.

        Raises ConflictError while another call sends the same, InvalidInputError for an offset beyond what is there,
        UnavailableError without room on the disk.
        """
        if announced in self._taken:
            fix = "wait for the other call, and register again: content that is there is not stored twice"
            raise ConflictError("another call sends this package", field="header.sha256", fix=fix)
        self._taken[announced] = asyncio.Event()
        try:
            with _told(self._folder):
                self._folder.mkdir(exist_ok=True)
                self._clear(keep=self._path(announced))
                self._check_offset(announced, offset)
                self._check_room(announced, offset)
                with self._path(announced).open("ab") as file:
                    file.truncate(offset)
            yield self._path(announced)
        finally:
            self._taken.pop(announced).set()

    def discard(self, announced: Announced) -> None:
        """Forget an archive that came whole, or came wrong."""
        self._path(announced).unlink(missing_ok=True)

    def _path(self, announced: Announced) -> Path:
        return self._folder / f"{announced.sha256}-{announced.size_bytes}.part"

    def _check_offset(self, announced: Announced, offset: int) -> None:
        here = self.received(announced)
        if offset > min(here, announced.size_bytes):
            fix = "ask GetUpload, and begin there"
            raise InvalidInputError(f"{here:,} bytes are here", field="header.offset", value=offset, fix=fix)

    def _check_room(self, announced: Announced, offset: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < 2 * announced.size_bytes - offset + ROOM_BYTES:
            fix = "make room on the server's disk, or have old versions collected: lensmount adapters collect"
            value = f"{free:,} bytes free"
            raise UnavailableError("no room for this package", field="header.size_bytes", value=value, fix=fix)

    def _clear(self, keep: Path) -> None:
        """Delete what is old, and the oldest of what is too much."""
        busy = {self._path(announced) for announced in self._taken}
        parts = sorted((path for path in self._folder.iterdir() if path not in busy | {keep}), key=_age)
        for index, path in enumerate(parts):
            if index >= MAX_KEPT - 1 or _age(path) > MAX_AGE_S:
                path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _age(path: Path) -> float:
    with suppress(OSError):
        return abs(time.time() - path.stat().st_mtime)
    return 0.0


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "make room on the server's disk, and send it again"
        message = f"the upload can not be kept: {error.strerror}"
        raise UnavailableError(message, field="data_dir", value=folder, fix=fix) from error
