"""The sources of a server on its disk, so that they are there again after a restart."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import UnavailableError
from lensmount_server.sources.model import SourceSpec

_SPECS = TypeAdapter(list[SourceSpec])


class SourceStore:
    """One JSON file, replaced as a whole and readable by its owner alone: addresses may hold passwords.

    Its methods block.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[SourceSpec]:
        """All sources; none where there is no file yet. Raises UnavailableError for one that can not be read."""
        try:
            return _SPECS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else error.errors(include_url=False)[0]["msg"]
            fix = "put back a copy of it, or move it away and add the sources again"
            raise UnavailableError(
                f"can not be read: {why}", field=self._path.name, value=self._path, fix=fix
            ) from error

    def save(self, specs: Iterable[SourceSpec]) -> None:
        """Replaces what is stored; on the disk when it returns. Raises UnavailableError."""
        data = _SPECS.dump_json(list(specs), indent=1)
        beside = self._path.with_suffix(".new")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            fix = "make room on the disk, and see that the server may write there"
            why = error.strerror or "not written"
            raise UnavailableError(why, field=self._path.name, value=self._path, fix=fix) from error
