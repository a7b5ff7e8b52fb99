"""Mutations of the archive: names that lead elsewhere, entries that overlap, sizes and directories that lie."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from random import Random

from fuzzing.zipping import WIDE, Archive, Entry

LINKS = (0o120777, 0o010644, 0o020644, 0o060644, 0o140644, 0o040755, 0o106755, 0)
PATHS = (
    b"../task.json", b"../../../../../../tmp/x", b"/task.json", b"/etc/passwd", b"./task.json", b"a/../task.json",
    b"package/task.json",
    b"task.json/", b"..\\task.json", b"C:\\task.json", b"\\\\host\\x", b"", b".", b"..", b"/", b"//", b"\0",
    b"task.json\0", b"task.json ",
    b"TASK.JSON", "task.jsön".encode(), "task.jso\u0301n".encode(), "\uff54ask.json".encode(),
    "\u202etask.json".encode(), b"\xff\xfe.json",
    b"CON", b"task.json:stream", b"~/x", b"$HOME/x", b"a" * 255, b"a" * 256, b"a" * 65_535, b"a/" * 2000,
    b"README.md\n", b"\xe2\x80\xae",
)  # fmt: skip
SIZES = (0, 1, 2**16, 2**20 + 1, 2**22 + 1, 2**26 + 1, 2**31, 2**31 + 1, WIDE - 1, WIDE)


def name(random: Random, archive: Archive) -> None:
    """A path where a name should be."""
    entry = random.choice(archive.entries)
    if random.random() < 0.5:
        entry.name = random.choice(PATHS)
    else:
        archive.entries.append(replace(entry, name=random.choice(PATHS)))
    if random.random() < 0.3:
        entry.flags |= 0x800


def local_name(random: Random, archive: Archive) -> None:
    """Two names, one in the directory and one at the file."""
    random.choice(archive.entries).local_name = random.choice((*PATHS, b"task.json", b"README.md"))


def twice(random: Random, archive: Archive) -> None:
    """One name, two entries."""
    entry = random.choice(archive.entries)
    archive.entries.insert(
        random.randrange(len(archive.entries) + 1),
        random.choice((replace(entry), Entry.of(entry.name.decode(errors="replace"), b"{}"))),
    )


def attributes(random: Random, archive: Archive) -> None:
    """A link, a device, a pipe, a folder; made on every system there is."""
    entry = random.choice(archive.entries)
    entry.mode = random.choice(LINKS) << 16 | random.choice((0, 0x10, 0x20, 0xFF))
    entry.made_by = random.randrange(30) << 8 | random.choice((20, 63, 255))
    if random.random() < 0.5:
        entry.data = b"/etc/passwd"
        entry.crc, entry.size, entry.packed = zlib.crc32(entry.data), len(entry.data), len(entry.data)


def sizes(random: Random, archive: Archive) -> None:
    """Sizes that are not those of the data, in one place or in both."""
    entry = random.choice(archive.entries)
    size = random.choice((*SIZES, entry.size - 1, entry.size + 1, entry.size * 2)) & WIDE
    kind = random.randrange(5)
    if kind == 0:
        entry.size = size
    elif kind == 1:
        entry.packed = size
    elif kind == 2:
        entry.size = entry.packed = size
    elif kind == 3:
        entry.local_size = size
    else:
        entry.size, entry.packed = entry.size, size


def overlap(random: Random, archive: Archive) -> None:
    """Two entries of the directory at one place, or one within another's data."""
    entry = random.choice(archive.entries)
    total = sum(len(other.data) + 60 for other in archive.entries)
    entry.offset = random.choice((0, 1, random.randrange(total), total - 30, total, total + 30, WIDE - 1, WIDE))


def checksum(random: Random, archive: Archive) -> None:
    """A checksum of something else."""
    random.choice(archive.entries).crc ^= random.choice((1, 1 << 31, WIDE))


def compressed(random: Random, archive: Archive) -> None:
    """An entry that is compressed, or says so."""
    entry = random.choice(archive.entries)
    method = random.choice((1, 8, 9, 12, 14, 93, 95, 99, 0xFFFF))
    entry.method = method
    if method in _PACKERS and random.random() < 0.7:
        entry.data = _PACKERS[method](entry.data[:20_000])
        entry.packed = len(entry.data)


def bomb(random: Random, archive: Archive) -> None:
    """Little that becomes much, and does or does not say so."""
    entry = random.choice(archive.entries)
    much = random.choice((4 << 20, 5 << 20, 16 << 20))
    entry.data = _ZEROS[much] if much in _ZEROS else _ZEROS.setdefault(much, _deflated(bytes(much)))
    entry.method, entry.packed = random.choice((0, 8, 8)), len(entry.data)
    entry.size = random.choice((much, len(entry.data), 0, WIDE - 1))


def flags(random: Random, archive: Archive) -> None:
    """Encryption, sizes behind the data, names in UTF-8, patches."""
    random.choice(archive.entries).flags = random.choice((1, 8, 0x20, 0x40, 0x800, 0x2000, 0x801, 0xFFFF, 9))


def extra(random: Random, archive: Archive) -> None:
    """Extra fields that are cut, unknown, or of ZIP64 with sizes of their own."""
    entry = random.choice(archive.entries)
    wide = struct.pack("<HHQQQ", 1, 24, *(random.choice((0, 1, entry.size, 2**40, 2**63, 2**64 - 1)) for _ in range(3)))
    entry.extra = random.choice(
        (wide, wide[:12], struct.pack("<HH", 1, 65_535), b"\1", struct.pack("<HHQ", 1, 8, 2**63),
        b"up" + bytes(60_000), random.randbytes(9),
         struct.pack("<HHB", 0x7075, 5, 1) + zlib.crc32(entry.name).to_bytes(4, "little") + b"../x")
    )  # fmt: skip
    if random.random() < 0.7:
        entry.size = random.choice((WIDE, entry.size))
        entry.packed = random.choice((WIDE, entry.packed))
        entry.offset = random.choice((None, WIDE))


def wide_end(random: Random, archive: Archive) -> None:
    """A ZIP64 end of the directory, true or not."""
    count, size, where = (random.choice((0, 1, 5, 1000, 2**20, 2**40, 2**63, 2**64 - 1)) for _ in range(3))
    archive.wide_end = struct.pack(
        "<IQHHIIQQQQ", 0x06064B50, random.choice((44, 0, 2**63)), 45, 45, 0, 0, count, count, size, where
    )
    if random.random() < 0.6:
        archive.count, archive.directory_size, archive.directory_offset = 0xFFFF, WIDE, WIDE


def comment(random: Random, archive: Archive) -> None:
    """Comments that look like the end of a directory, are long, or say so."""
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0, 0, 0, 0, 0)
    archive.comment = random.choice((end, end * 3, b"PK\5\6", b"x" * 65_535, bytes(70_000), random.randbytes(30)))
    archive.comment_length = random.choice((None, 0, 1, 65_535))
    random.choice(archive.entries).comment = random.choice((b"", end, bytes(60_000)))


def end(random: Random, archive: Archive) -> None:
    """Counts, sizes and offsets of the directory that are others."""
    number = random.choice((0, 1, 4, 6, 1000, 65_535, 2**20, 2**31, WIDE))
    field = random.choice(("count", "directory_size", "directory_offset", "disk"))
    setattr(archive, field, number & 0xFFFF if field == "disk" else number)


def around(random: Random, archive: Archive) -> None:
    """Something in front of the archive."""
    archive.prefix = random.choice(
        (b"#!/bin/sh\n", b"\x7fELF", bytes(1000), b"PK\3\4", b"PK\1\2" + bytes(42), b"\x80\x04.")
    )


def missing(random: Random, archive: Archive) -> None:
    """An entry that is not there, or all of them in another order."""
    if random.random() < 0.5 and len(archive.entries) > 1:
        archive.entries.remove(random.choice(archive.entries))
    else:
        random.shuffle(archive.entries)


def many_entries(random: Random, archive: Archive) -> None:
    """Thousands of entries."""
    count = random.choice((100, 3000, 30_000))
    archive.entries += [Entry.of(random.choice(("README.md", "x", "task.json")), b"")] * count


def version(random: Random, archive: Archive) -> None:
    """A version or a disk of the far future."""
    entry = random.choice(archive.entries)
    entry.version, entry.disk = random.choice((0, 63, 64, 255, 0xFFFF)), random.choice((0, 0, 1, 0xFFFF))


def truncated(random: Random, data: bytes) -> bytes:
    """The end is gone; most often a part of the directory."""
    return data[: -random.randrange(1, 500)] if random.random() < 0.7 else data[: random.randrange(len(data) + 1)]


def damaged(random: Random, data: bytes) -> bytes:
    """Bytes that are others, gone or new; half of them near the end, where the directory is."""
    changed = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        if not changed:
            break
        span = min(len(changed), 700)
        at = len(changed) - 1 - random.randrange(span) if random.random() < 0.5 else random.randrange(len(changed))
        length = random.randrange(1, 8)
        changed[at : at + random.choice((0, length))] = random.randbytes(random.choice((0, length)))
    return bytes(changed)


def appended(random: Random, data: bytes) -> bytes:
    """Something behind the end, another archive for example."""
    return data + random.choice((b"\0", bytes(100), data[-200:], data, b"PK\5\6" + bytes(18), bytes(70_000)))


_ZEROS: dict[int, bytes] = {}


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def _lzma(data: bytes) -> bytes:
    return b"\x09\x04\x05\x00" + lzma.compress(data)[:64]


_PACKERS: dict[int, Callable[[bytes], bytes]] = {8: _deflated, 12: bz2.compress, 14: _lzma}

MUTATORS: dict[str, Callable[[Random, Archive], None]] = {
    "entry name": name,
    "local name": local_name,
    "entry twice": twice,
    "attributes": attributes,
    "entry sizes": sizes,
    "overlap": overlap,
    "checksum": checksum,
    "compressed": compressed,
    "bomb": bomb,
    "flags": flags,
    "extra field": extra,
    "ZIP64 end": wide_end,
    "comment": comment,
    "end of directory": end,
    "prefix": around,
    "missing entry": missing,
    "many entries": many_entries,
    "version": version,
}

BYTE_MUTATORS: dict[str, Callable[[Random, bytes], bytes]] = {
    "truncated": truncated,
    "damaged": damaged,
    "appended": appended,
}
