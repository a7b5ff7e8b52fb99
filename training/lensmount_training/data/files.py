"""Picture files below a folder: found in the order of their names, opened, and never kept in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels, decode_picture
from lensmount_training.data.listing import Content, Skipped

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, links to folders among them, by name; hidden ones are left alone.

    Raises InvalidInputError when there is no such folder or it can not be read.
    """
    return [path for path in _children(folder) if path.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """The files in a folder itself, by name; hidden ones are left alone. Raises as `folders_in`."""
    return [path for path in _children(folder) if path.is_file()]


def files_below(folder: Path) -> Iterator[Path | Skipped]:
    """Everything below a folder that is no folder, by name; hidden files and folders are left alone.

    A link to a folder is skipped: it could lead back here. Raises InvalidInputError for a folder that can not be read.
    """
    for path in _children(folder):
        if not path.is_dir():
            yield path
        elif path.is_symlink():
            yield Skipped(path.as_posix(), "a link to a folder, which is not followed")
        else:
            yield from files_below(path)


def has_pictures(folder: Path) -> bool:
    """Whether any file below the folder is a picture by its name."""
    return any(isinstance(path, Path) and path.suffix.lower() in SUFFIXES for path in files_below(folder))


def read_file(path: Path) -> Content:
    """A picture file; its bytes are its digest.

    They are read again to be decoded, since all files of a data set do not fit into memory. What changed between
    is not decoded. Raises InvalidInputError for what is no plain file: a pipe would never end.
    """
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    return Content(digest, lambda: decode_file(path, digest))


def decode_file(path: Path, digest: str) -> Pixels:
    """The picture in a file, uint8 RGB (height, width, 3); raises InvalidInputError unless its bytes have that digest.

    Raises TooLargeError beyond the limits of pictures, OSError for a file that can not be read.
    """
    return decode_bytes(read_bytes(path), digest, path)


def decode_bytes(data: bytes, digest: str, where: Path) -> Pixels:
    """The picture that bytes are; raises as `decode_file`."""
    if hashlib.sha256(data).hexdigest() != digest:
        fix = "start again when nothing writes to it"
        raise InvalidInputError("it was changed while it was read", field="data", value=where, fix=fix)
    return decode_picture(data)


def read_bytes(path: Path) -> bytes:
    """The bytes of a plain file; raises InvalidInputError for anything else, OSError where it can not be read."""
    if path.exists() and not path.is_file():
        fix = "put a picture there"
        raise InvalidInputError("neither a file nor a folder", field="data", value=path, fix=fix)
    return path.read_bytes()


def below(folder: Path, name: str) -> Path | str:
    """The file that an index calls `name`, as a path below `folder`, or why there is none.

    The name is relative to the folder, or an absolute path into it; backslashes of Windows are understood.
    """
    root = Path(folder).absolute()
    for written in dict.fromkeys((name, name.replace("\\", "/"))):
        path = Path(os.path.normpath(root / written))
        if not path.is_relative_to(os.path.normpath(root)):
            return "outside of the folder of the index"
        if os.path.isfile(path):  # noqa: PTH113 Path.is_file raises for a name that is too long
            return folder / path.relative_to(os.path.normpath(root))
    return "no such file"


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = "give the folder of your pictures"
        raise InvalidInputError("no such folder", field="data", value=folder, fix=fix) from error
    except OSError as error:
        message = f"the folder can not be read: {error.strerror}"
        raise InvalidInputError(message, field="data", value=folder, fix="look at its permissions") from error
