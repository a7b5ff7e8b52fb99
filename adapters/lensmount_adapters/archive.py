"""The package as one file: a ZIP whose entries are stored, not compressed.

Nothing is written outside the target folder, nothing beyond a package's limits, and an
entry's size is known before its first byte is copied. A directory of millions of entries,
which `zipfile` would take into memory whole, is refused before it is read.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_adapters.package import MAX_BYTES, check_size

FIX = "send the package with `lensmount register`, which packs it"
PIECE_BYTES = 1 << 20


class _Pieces(io.BufferedReader):
    """A file that is read in pieces; the one piece that `zipfile` takes at a size of its own is the directory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > PIECE_BYTES:
            message = f"a directory of at most {PIECE_BYTES:,} bytes expected"
            raise InvalidInputError(message, field="package", value=f"{size:,} bytes", fix=FIX)
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile("its directory points outside of it")
        return super().seek(offset, whence)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a package archive into the new folder `folder`; raises InvalidInputError or TooLargeError."""
    try:
        with _Pieces(archive.open("rb", buffering=0)) as data, zipfile.ZipFile(data) as file:
            entries = file.infolist()
            _check_names(entries)
            for entry in entries:
                _check_entry(entry)
            folder.mkdir(parents=True)
            for entry in entries:
                with file.open(entry) as source, (folder / entry.filename).open("xb") as target:
                    shutil.copyfileobj(source, target, PIECE_BYTES)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        message = f"not a readable package archive: {error}"
        raise InvalidInputError(message, field="package", value=f"{archive.stat().st_size} bytes", fix=FIX) from error


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    for name in names:
        if name not in MAX_BYTES or names.count(name) > 1:
            message = f"a package holds only {', '.join(MAX_BYTES)}, each once"
            raise InvalidInputError(message, field="package", value=name, fix=FIX)


def _check_entry(entry: zipfile.ZipInfo) -> None:
    check_size(entry.filename, entry.file_size)
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise InvalidInputError(
            "entries must be stored, not compressed", field="package", value=entry.filename, fix=FIX
        )
