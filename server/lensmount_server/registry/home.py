"""A server's own folder: a lock, a name for this server, and room for uploads."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensmount.errors import UnavailableError

_FIX = "give --data-dir a folder that you may write"


class Home:
    """The data directory, in use by this server alone."""

    def __init__(self, directory: Path) -> None:
        """Open or make it; UnavailableError when it can not be written or another server uses it."""
        self.directory = directory
        try:
            (directory / "staging").mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("a+")
        except OSError as error:
            raise UnavailableError(str(error), field="data_dir", value=directory, fix=_FIX) from error
        self._claim()
        self.server = self._name()
        for leftover in (directory / "staging").iterdir():
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Let go of it."""
        self._lock.close()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for an upload, removed afterwards whatever happens. Raises UnavailableError."""
        folder = self.directory / "staging" / uuid.uuid4().hex
        try:
            folder.mkdir()
        except OSError as error:
            raise UnavailableError(str(error), field="data_dir", value=self.directory, fix=_FIX) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            fix = "stop the other server, or give --data-dir another folder"
            message = "another server uses this data directory"
            raise UnavailableError(message, field="data_dir", value=self.directory, fix=fix) from error

    def _name(self) -> str:
        """What this server is called in the registry; the same after a restart."""
        self._lock.seek(0)
        name = self._lock.read(64).strip()
        if not name:
            name = uuid.uuid4().hex
            self._lock.write(name)
            self._lock.flush()
        return name
