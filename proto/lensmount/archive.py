"""An adapter package as one ZIP file on its way to the server.

The same folder gives the same bytes: entries are stored, sorted by name and dated
1980-01-01. Hidden files stay at home.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lensmount.errors import InvalidInputError
from lensmount.v1 import adapters_pb2

CHUNK_BYTES = 1 << 20
MANIFEST = "task.json"

# Told after each chunk: bytes sent so far, and bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Archive:
    """An open ZIP file at its start, with its size in bytes and its SHA-256."""

    file: IO[bytes]
    size_bytes: int
    sha256: str


@contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """The archive of a package folder (zipped into a temporary file) or of a .zip file.

    Raises InvalidInputError when there is nothing of the kind at `path`.
    """
    package = Path(path)
    try:
        with _zipped(package) if package.is_dir() else _zip_file(package) as file:
            yield _described(file)
    except OSError as error:
        raise _wrong(f"not readable: {error.strerror or error}", error.filename or package) from error


@dataclass(frozen=True)
class Upload:
    """What is asked for with an archive: an alias, tags, that it is only checked; and where its bytes begin."""

    alias: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    validate_only: bool = False
    offset: int = 0


def upload_messages(
    archive: Archive, upload: Upload, progress: Progress | None = None
) -> Iterator[adapters_pb2.RegisterAdapterRequest]:
    """The header, then the archive from the offset on in chunks of at most 1 MiB."""
    header = adapters_pb2.RegisterAdapterHeader(
        size_bytes=archive.size_bytes,
        sha256=archive.sha256,
        set_alias=upload.alias,
        validate_only=upload.validate_only,
        offset=upload.offset,
        tags=upload.tags,
    )
    yield adapters_pb2.RegisterAdapterRequest(header=header)
    archive.file.seek(upload.offset)
    sent = upload.offset
    while chunk := archive.file.read(CHUNK_BYTES):
        yield adapters_pb2.RegisterAdapterRequest(chunk=chunk)
        sent += len(chunk)
        if progress:
            progress(sent, archive.size_bytes)


def _described(file: IO[bytes]) -> Archive:
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    size = file.tell()
    file.seek(0)
    return Archive(file, size, sha256)


@contextmanager
def _zipped(folder: Path) -> Iterator[IO[bytes]]:
    if not (folder / MANIFEST).is_file():
        raise _wrong(f"no {MANIFEST} in the folder", folder)
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for member in _members(folder):
                _add(archive, folder, member)
        yield file


def _members(folder: Path) -> list[Path]:
    relative = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in relative if not any(part.startswith(".") for part in path.parts))


def _add(archive: zipfile.ZipFile, folder: Path, member: Path) -> None:
    entry = zipfile.ZipInfo(member.as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    entry.file_size = (folder / member).stat().st_size
    with (folder / member).open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


@contextmanager
def _zip_file(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise _wrong("not a file" if path.exists() else "nothing there", path)
    with path.open("rb") as file:
        if MANIFEST not in _entries(path, file):
            raise _wrong(f"no {MANIFEST} at the top of the archive", path)
        yield file


def _entries(path: Path, file: IO[bytes]) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise _wrong("neither a folder nor a ZIP file", path) from error


def _wrong(message: str, path: object) -> InvalidInputError:
    fix = f"give the folder that `lensmount train` wrote (it holds {MANIFEST}), or its ZIP file"
    return InvalidInputError(message, field="path", value=path, fix=fix)
