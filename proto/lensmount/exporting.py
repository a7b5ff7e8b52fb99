"""Writes a package that a server sends: to a .zip file, or unpacked into a folder."""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lensmount import convert
from lensmount.archive import Progress
from lensmount.errors import AlreadyExistsError, ServerError, UnavailableError
from lensmount.results import Export
from lensmount.v1 import adapters_pb2

# What a package may hold; the server says the same of what it takes.
FILES = ("task.json", "adapter_config.json", "adapter_model.safetensors", "golden.safetensors", "README.md")


class Exporting:
    """One export, message by message, in a `with` block; what is at `path` is there only when it is whole."""

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        self._path = path
        self._progress = progress
        self._header: adapters_pb2.ExportAdapterHeader | None = None
        self._digest = hashlib.sha256()
        self._received = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises AlreadyExistsError when there is something at `path`, UnavailableError when it can not be written."""
        if self._path.exists():
            fix = "give another name"
            raise AlreadyExistsError("there is something of that name", field="path", value=self._path, fix=fix)
        with self._told():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=f".{self._path.name}.", dir=self._path.parent)
            self._scratch = Path(self._stack.enter_context(scratch))
            self._file = self._stack.enter_context((self._scratch / "package.zip").open("wb"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self, message: adapters_pb2.ExportAdapterResponse) -> None:
        """Write what a message brings. Raises UnavailableError."""
        if message.HasField("header"):
            self._header = message.header
            return
        with self._told():
            self._file.write(message.chunk)
        self._digest.update(message.chunk)
        self._received += len(message.chunk)
        if self._progress is not None and self._header is not None:
            self._progress(self._received, self._header.size_bytes)

    def finish(self) -> Export:
        """Put it in its place. Raises UnavailableError, or ServerError for what is no package."""
        if self._header is None or self._digest.hexdigest() != self._header.sha256:
            raise ServerError("the package came damaged", field="sha256", fix="export it again")
        archive = self._scratch / "package.zip"
        with self._told():
            self._file.close()
            whole = archive if self._path.suffix == ".zip" else _unpacked(archive, self._scratch / "package")
            whole.rename(self._path)
        return Export(convert.adapter_version(self._header.adapter), str(self._path), self._header.size_bytes)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = f"can not be written: {error.strerror or error}"
            raise UnavailableError(why, field="path", value=self._path, fix="give another place") from error


def _unpacked(archive: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(archive) as file:
            folder.mkdir()
            for name in file.namelist():
                if name not in FILES:
                    raise ServerError("the package holds a file that none may have", field="package", value=name)
                (folder / name).write_bytes(file.read(name))
    except zipfile.BadZipFile as error:
        raise ServerError("the server sent no package", field="package", fix="export it again") from error
    return folder
