"""A ZIP writer that writes whatever it is told (APPNOTE.TXT 6.3.10), lies included."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

WIDE = 0xFFFFFFFF


@dataclass
class Entry:
    """One file of an archive: what its local header and its line of the directory say."""

    name: bytes
    data: bytes
    crc: int
    size: int
    packed: int
    method: int = 0
    flags: int = 0
    version: int = 20
    made_by: int = 3 << 8 | 20
    mode: int = 0o100644 << 16
    extra: bytes = b""
    comment: bytes = b""
    # None: as the directory says.
    local_name: bytes | None = None
    local_size: int | None = None
    # None: where it is.
    offset: int | None = None
    disk: int = 0

    @classmethod
    def of(cls, name: str, data: bytes) -> Entry:
        """An honest entry."""
        return cls(name.encode(), data, zlib.crc32(data), len(data), len(data))


@dataclass
class Archive:
    """Entries, and what the end of the directory says; None there is the truth."""

    entries: list[Entry]
    prefix: bytes = b""
    comment: bytes = b""
    comment_length: int | None = None
    count: int | None = None
    directory_size: int | None = None
    directory_offset: int | None = None
    disk: int = 0
    wide_end: bytes | None = field(default=None)

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Archive:
        """An honest archive."""
        return cls([Entry.of(name, data) for name, data in sorted(files.items())])


def write_archive(archive: Archive) -> bytes:
    """The bytes of an archive."""
    out, offsets = [archive.prefix], []
    at = len(archive.prefix)
    for entry in archive.entries:
        offsets.append(at)
        header = _local(entry)
        out += [header, entry.data]
        at += len(header) + len(entry.data)
    directory = b"".join(_central(entry, offset) for entry, offset in zip(archive.entries, offsets, strict=True))
    out.append(directory)
    if archive.wide_end is not None:
        out += [archive.wide_end, struct.pack("<IIQI", 0x07064B50, 0, at + len(directory), 1)]
    out.append(_end(archive, at, len(directory)))
    return b"".join(out)


def _local(entry: Entry) -> bytes:
    name = entry.name if entry.local_name is None else entry.local_name
    size = entry.size if entry.local_size is None else entry.local_size
    lengths = _short(len(name)), _short(len(entry.extra))
    fields = (entry.version, entry.flags, entry.method, 0, 33, entry.crc, _word(entry.packed), _word(size), *lengths)
    return struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields) + name + entry.extra


def _central(entry: Entry, offset: int) -> bytes:
    where = offset if entry.offset is None else entry.offset
    fields = (
        entry.made_by, entry.version, entry.flags, entry.method, 0, 33, entry.crc, _word(entry.packed),
        _word(entry.size),
        _short(len(entry.name)), _short(len(entry.extra)), _short(len(entry.comment)), entry.disk, 0,
        entry.mode & WIDE, _word(where),
    )  # fmt: skip
    return struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, *fields) + entry.name + entry.extra + entry.comment


def _end(archive: Archive, at: int, length: int) -> bytes:
    count = len(archive.entries) if archive.count is None else archive.count
    size = length if archive.directory_size is None else archive.directory_size
    where = at if archive.directory_offset is None else archive.directory_offset
    comment = len(archive.comment) if archive.comment_length is None else archive.comment_length
    fields = (archive.disk, archive.disk, _short(count), _short(count), _word(size), _word(where), _short(comment))
    return struct.pack("<IHHHHIIH", 0x06054B50, *fields) + archive.comment


def _word(number: int) -> int:
    return number & WIDE


def _short(number: int) -> int:
    return number & 0xFFFF
