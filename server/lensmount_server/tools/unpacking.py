"""From what a person names to the folder of a package."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensmount.archive import open_archive
from lensmount_adapters.archive import unpack


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The package of a folder or a .zip file as a server would unpack it, in a folder of its own.

    It is packed and unpacked as `lensmount register` and the server do it: hidden files stay at home, and what the
    archive may not hold is refused. Raises InvalidInputError or TooLargeError.
    """
    with tempfile.TemporaryDirectory(prefix="lensmount.") as scratch:
        upload, folder = Path(scratch) / "upload.zip", Path(scratch) / "package"
        with open_archive(path) as archive, upload.open("wb") as file:
            shutil.copyfileobj(archive.file, file)
        unpack(upload, folder)
        upload.unlink()
        yield folder
