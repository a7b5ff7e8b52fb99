"""Where packages lie: in a folder, or in an object store that fsspec knows (s3://, gs://, …).

A package has a key of its own for each time that it is stored, so that removing one never
touches another of the same content. The registry's database says which keys count; what is
written here is only looked at through it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec

from lensmount.errors import InvalidInputError, LensmountError, MissingExtraError, NotFoundError, UnavailableError
from lensmount_adapters.package import MAX_BYTES

# What is kept on this machine of the packages of an object store.
CACHE_BYTES = 4 << 30


class BlobStore(Protocol):
    """Package folders by key. All methods block and may be called from any thread."""

    def put(self, key: str, folder: Path) -> None:
        """Keep a folder, which may be moved away: it is safe when this returns. Raises UnavailableError."""
        ...

    def get(self, key: str, *, anew: bool = False) -> Path:
        """A local folder with what is kept; `anew`: no copy from before. Raises NotFoundError or UnavailableError."""
        ...

    def remove(self, key: str) -> None:
        """Forget what there is of it, all or a part. Raises UnavailableError."""
        ...


class FolderBlobs:
    """Packages in one folder, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _told(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            _sync(folder.parent)

    def put(self, key: str, folder: Path) -> None:
        """Move the folder to its place, on the disk when this returns."""
        with _told(str(self._folder)):
            place, partial = self._folder / key, self._folder / f".{key}"
            try:
                _settle(folder, place)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _settle(Path(shutil.copytree(folder, partial)), place)  # it lies on another disk

    def get(self, key: str, *, anew: bool = False) -> Path:  # noqa: ARG002 - there are no copies
        """Where it lies."""
        if not (self._folder / key).is_dir():
            raise _gone(key, self._folder)
        return self._folder / key

    def remove(self, key: str) -> None:
        """Delete it: whoever reads it finds it whole or not there."""
        place, partial = self._folder / key, self._folder / f".{key}"
        with _told(str(self._folder)):
            _delete(partial)
            with suppress(FileNotFoundError):
                place.rename(partial)
            _delete(partial)


class ObjectBlobs:
    """Packages in an object store, and copies of those that were asked for in a local folder."""

    def __init__(self, address: str, cache: Path) -> None:
        """Raises InvalidInputError for a store that fsspec does not know, MissingExtraError without its driver."""
        self._address = address
        self._cache = cache
        self._copies = threading.Lock()
        self._files, self._root = _opened(address)
        with _told(str(cache)):
            cache.mkdir(parents=True, exist_ok=True)
            for leftover in cache.glob(".*"):
                _delete(leftover)

    def put(self, key: str, folder: Path) -> None:
        """Copy the folder's files into the store."""
        with _driver_told(self._address):
            self._files.makedirs(f"{self._root}/{key}", exist_ok=True)
            for path in sorted(folder.iterdir()):
                self._files.put_file(str(path), f"{self._root}/{key}/{path.name}")

    def get(self, key: str, *, anew: bool = False) -> Path:
        """A copy of it on this machine."""
        local = self._cache / key
        with _told(str(self._cache)):
            if anew or not local.is_dir():
                self._fetch(key, local)
            with self._copies:
                os.utime(local)
                self._trim(local)
        return local

    def remove(self, key: str) -> None:
        """Delete it here and there."""
        where = f"{self._root}/{key}"
        with _driver_told(self._address):
            self._files.invalidate_cache()  # other servers write there too
            with suppress(FileNotFoundError):
                self._files.rm(where, recursive=True)
        with self._copies:
            shutil.rmtree(self._cache / key, ignore_errors=True)

    def _fetch(self, key: str, local: Path) -> None:
        """Make a new copy, which takes the place of one that is there."""
        partial = self._cache / f".{key}-{secrets.token_hex(4)}"
        try:
            partial.mkdir()
            with _driver_told(self._address):
                self._download(key, partial)
            with self._copies:
                shutil.rmtree(local, ignore_errors=True)
                partial.rename(local)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download(self, key: str, folder: Path) -> None:
        where = f"{self._root}/{key}"
        self._files.invalidate_cache()
        if not self._files.isdir(where):
            raise _gone(key, self._address)
        for found in self._files.ls(where, detail=True):
            name = str(found["name"]).rpartition("/")[2]
            if name in MAX_BYTES and int(found["size"]) <= MAX_BYTES[name]:
                self._files.get_file(found["name"], str(folder / name))

    def _trim(self, keep: Path) -> None:
        """Delete the copies that were not asked for longest, until the rest is small enough."""
        whole = [path for path in self._cache.glob("[!.]*") if path != keep]
        copies = sorted(whole, key=lambda path: path.stat().st_mtime)
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in [*copies, keep]}
        while copies and sum(sizes.values()) > CACHE_BYTES:
            oldest = copies.pop(0)
            del sizes[oldest]
            shutil.rmtree(oldest, ignore_errors=True)


def open_blobs(address: str, data_dir: Path) -> BlobStore:
    """The store at an address: a folder (as a path), or a URL of a store that fsspec knows."""
    if "://" not in address:
        return FolderBlobs(Path(address))
    if address.startswith("file://"):
        return FolderBlobs(Path(address.removeprefix("file://")))
    return ObjectBlobs(address, data_dir / "cache")


def _opened(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0]
    try:
        files, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        fix = "pip install 'lensmount[s3]'" if scheme in {"s3", "s3a"} else f"install fsspec's driver for {scheme}"
        raise MissingExtraError(str(error).split("\n")[0], field="packages", fix=fix) from error
    except ValueError as error:
        fix = "give a folder, or an address such as s3://bucket/lensmount"
        raise InvalidInputError(f"not a store: {error}", field="packages", value=address, fix=fix) from error
    return files, str(root).rstrip("/")


def _settle(folder: Path, place: Path) -> None:
    """Have a folder at its place, all of it on the disk."""
    for path in [*folder.iterdir(), folder]:
        _sync(path)
    folder.rename(place)
    _sync(place.parent)


def _delete(folder: Path) -> None:
    while folder.exists():
        with suppress(FileNotFoundError):  # another server deletes it too
            shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gone(key: str, where: object) -> NotFoundError:
    fix = "register the package again, and look at the disk"
    return NotFoundError(f"its package is gone from {where}", field="adapter", value=key, fix=fix)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_now(error, where) from error


@contextmanager
def _driver_told(where: str) -> Iterator[None]:
    try:
        yield
    except LensmountError:
        raise
    except Exception as error:  # each driver of fsspec has errors of its own
        raise _not_now(error, where) from error


def _not_now(error: Exception, where: str) -> UnavailableError:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    fix = "make room, or give the server a place that it may write, and call again"
    return UnavailableError(f"packages can not be kept or read: {why}", field="packages", value=where, fix=fix)
