"""Object stores and other remote folders, each by its fsspec driver."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from lensmount.errors import InvalidInputError, LensmountError, MissingExtraError, NotFoundError, UnavailableError
from lensmount_adapters.importing.addresses import FIX, scheme, without_secrets
from lensmount_adapters.importing.hub import Choose

T = TypeVar("T")

# Drivers that an extra of ours brings, by scheme; for others fsspec knows what to install.
EXTRAS = {"s3": "s3", "s3a": "s3"}


class Store:
    """What lies at an address of fsspec's."""

    def __init__(self, address: str) -> None:
        """Raises InvalidInputError for an unknown scheme, MissingExtraError without its driver, UnavailableError."""
        self.address = without_secrets(address)
        try:
            self._files, self._path = url_to_fs(address)
        except ImportError as error:
            raise _missing(scheme(address), error) from error
        except ValueError as error:
            raise InvalidInputError(
                "no driver knows this address", field="source", value=self.address, fix=FIX
            ) from error
        except Exception as error:  # some drivers connect at once, and raise what their own libraries raise
            raise self._failure(error) from error

    def download(self, folder: Path, choose: Choose) -> Path:
        """Copy what `choose` picks of the files' names and sizes into `folder`; the folder, or the one file there.

        Raises NotFoundError, UnavailableError without permission or network, and what `choose` raises.
        """
        if self._asked(lambda: self._files.isfile(self._path)):
            name: str = self._path.rpartition("/")[2]
            choose({name: int(self._asked(lambda: self._files.size(self._path)) or 0)})
            self._asked(lambda: self._files.get_file(self._path, str(folder / name)))
            return folder / name
        for name in choose(self._sizes()):
            source = f"{self._path.rstrip('/')}/{name}"
            self._asked(partial(self._files.get_file, source, str(folder / name)))
        return folder

    def _sizes(self) -> dict[str, int]:
        found: list[dict[str, Any]] = self._asked(lambda: self._files.ls(self._path, detail=True))
        files = [entry for entry in found if entry["type"] == "file"]
        return {entry["name"].rpartition("/")[2]: int(entry.get("size") or 0) for entry in files}

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except Exception as error:  # every driver raises what its own libraries raise
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> LensmountError:
        if isinstance(error, FileNotFoundError):
            fix = "check the bucket and the folder"
            return NotFoundError("there is no such bucket, folder or file", field="source", value=self.address, fix=fix)
        if isinstance(error, PermissionError) or "credentials" in type(error).__name__.lower():
            fix = "set the store's credentials, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
            return UnavailableError("no permission to read it", field="source", value=self.address, fix=fix)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        fix = "check the network and the address, or give a folder of this machine"
        return UnavailableError(f"it can not be read: {reason}", field="source", value=self.address, fix=fix)


def _missing(name: str, error: ImportError) -> MissingExtraError:
    if name in EXTRAS:
        fix = f"pip install 'lensmount[{EXTRAS[name]}]'"
        return MissingExtraError(f"addresses of {name}:// need the extra '{EXTRAS[name]}'", field="source", fix=fix)
    return MissingExtraError(f"addresses of {name}:// need a driver", field="source", fix=str(error))
