"""Packages from where others publish them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lensmount.errors import AlreadyExistsError, UnavailableError
from lensmount_adapters.importing.fetching import fetched
from lensmount_adapters.package import MAX_BYTES, Package, read_package


def fetch_package(address: str, path: Path) -> Package:
    """Copy the package at an address (`hf://`, `s3://`, … or a folder) to the new folder `path`.

    What else lies beside it stays there. Raises AlreadyExistsError, NotFoundError, UnavailableError, MissingExtraError,
    and what `read_package` raises; then there is nothing at `path`.
    """
    if path.exists():
        raise AlreadyExistsError("there is something of that name", field="path", value=path, fix="give another name")
    with fetched(address) as found:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
                partial = Path(scratch) / "package"
                partial.mkdir()
                for file in found.iterdir() if found.is_dir() else ():
                    if file.name in MAX_BYTES:
                        shutil.copyfile(file, partial / file.name)
                package = read_package(partial)
                partial.rename(path)
        except OSError as error:
            why = f"can not be written: {error.strerror or error}"
            raise UnavailableError(why, field="path", value=path, fix="give another place") from error
    return package
