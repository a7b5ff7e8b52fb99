"""Files of a run, written whole or not at all; a disk that can not hold one is a sentence, and the run can go on later.

A file is written beside its place, synced, and renamed; after a crash, or a power failure, there is the old one or the
new one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from lensmount.errors import InvalidInputError

AGAIN = "free some space, and give the same command again: it goes on from here"


def save(values: Mapping[str, object], path: Path, what: str) -> None:
    """Write what `torch.load(weights_only=True)` reads; `what` is its name in a message. Its folder is made.

    Raises InvalidInputError (field "out") when the disk can not hold it.
    """
    # Straight to a file, torch tells a full disk by an error of its archive that names no cause.
    made = io.BytesIO()
    torch.save(dict(values), made)
    _write(made.getbuffer(), path, what)


def put(path: Path, content: str | bytes) -> None:
    """Write a small file; raises InvalidInputError (field "out") when the disk can not hold it."""
    # Names of files may hold bytes that are no text.
    data = content.encode(errors="replace") if isinstance(content, str) else content
    _write(memoryview(data), path, "the file")


def _write(data: memoryview, path: Path, what: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(data, path)
    except OSError as error:
        message = f"{what} can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=path, fix=AGAIN) from error


def _replace(data: memoryview, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk what it takes is missed
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
