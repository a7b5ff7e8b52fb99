"""A folder that gets its name when it is whole, in place of one that an earlier export wrote, and of nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensmount.errors import InvalidInputError

CONFIG = "config.pbtxt"
MARK = "# Written by `lensmount export"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, with another name until the `with` block ends well.

    Raises InvalidInputError where `folder` is something that no export wrote: its config.pbtxt says so.
    """
    if folder.exists() and not _ours(folder):
        fix = "give another folder, or take away what is there"
        raise InvalidInputError("something else is there", field="folder", value=folder, fix=fix)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        partial = Path(scratch) / "new"
        partial.mkdir()
        yield partial
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        partial.rename(folder)


def _ours(folder: Path) -> bool:
    try:
        return (folder / CONFIG).read_text().startswith(MARK)
    except (OSError, UnicodeDecodeError):
        return False
