"""Where packages lie: in a folder, or in an object store that fsspec knows (s3://, gs://, …).

A package has a key of its own for each time that it is stored, so that removing one never
touches another of the same content. The registry's database says which keys count; what is
written here is only looked at through it.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import fsspec

from lensmount.errors import InvalidInputError, MissingExtraError, NotFoundError, UnavailableError
from lensmount_adapters.package import MAX_BYTES

# What is kept on this machine of the packages of an object store.
CACHE_BYTES = 4 << 30


class BlobStore(Protocol):
    """Package folders by key. All methods block and may be called from any thread."""

    def put(self, key: str, folder: Path) -> None:
        """Keep a folder, which may be moved away: it is safe when this returns. Raises UnavailableError."""
        ...

    def get(self, key: str) -> Path:
        """A local folder with what is kept. Raises NotFoundError or UnavailableError."""
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

    def put(self, key: str, folder: Path) -> None:
        """Move the folder to its place, on the disk when this returns."""
        with _told(str(self._folder)):
            if folder.stat().st_dev != self._folder.stat().st_dev:
                folder = Path(shutil.copytree(folder, self._folder / f".{key}"))
            for path in [*folder.iterdir(), folder]:
                _sync(path)
            folder.rename(self._folder / key)
            _sync(self._folder)

    def get(self, key: str) -> Path:
        """Where it lies."""
        if not (self._folder / key).is_dir():
            raise _gone(key, self._folder)
        return self._folder / key

    def remove(self, key: str) -> None:
        """Delete it."""
        with _told(str(self._folder)):
            for path in (self._folder / key, self._folder / f".{key}"):
                if path.exists():
                    shutil.rmtree(path)


class ObjectBlobs:
    """Packages in an object store, and copies of those that were asked for in a local folder."""

    def __init__(self, address: str, cache: Path) -> None:
        """Raises InvalidInputError for a store that fsspec does not know, MissingExtraError without its driver."""
        self._address = address
        self._cache = cache
        self._fetching = threading.Lock()
        self._files, self._root = _opened(address)
        cache.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, folder: Path) -> None:
        """Copy the folder's files into the store."""
        with _told(self._address):
            self._files.makedirs(f"{self._root}/{key}", exist_ok=True)
            for path in sorted(folder.iterdir()):
                self._files.put_file(str(path), f"{self._root}/{key}/{path.name}")

    def get(self, key: str) -> Path:
        """A copy of it on this machine."""
        local = self._cache / key
        with self._fetching:
            if not local.is_dir():
                self._fetch(key, local)
            os.utime(local)
            self._trim(local)
        return local

    def remove(self, key: str) -> None:
        """Delete it here and there."""
        with _told(self._address):
            if self._files.exists(f"{self._root}/{key}"):
                self._files.rm(f"{self._root}/{key}", recursive=True)
            shutil.rmtree(self._cache / key, ignore_errors=True)

    def _fetch(self, key: str, local: Path) -> None:
        partial = self._cache / f".{key}"
        shutil.rmtree(partial, ignore_errors=True)
        with _told(self._address):
            if not self._files.isdir(f"{self._root}/{key}"):
                raise _gone(key, self._address)
            partial.mkdir()
            for found in self._files.ls(f"{self._root}/{key}", detail=True):
                name = str(found["name"]).rpartition("/")[2]
                if name in MAX_BYTES and int(found["size"]) <= MAX_BYTES[name]:
                    self._files.get_file(found["name"], str(partial / name))
            partial.rename(local)

    def _trim(self, keep: Path) -> None:
        """Delete the copies that were not asked for longest, until the rest is small enough."""
        copies = sorted((path for path in self._cache.iterdir() if path != keep), key=lambda path: path.stat().st_mtime)
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
        raise MissingExtraError(str(error).split("\n")[0], field="blobs", fix=fix) from error
    except ValueError as error:
        fix = "give a folder, or an address such as s3://bucket/lensmount"
        raise InvalidInputError(f"not a store: {error}", field="blobs", value=address, fix=fix) from error
    return files, str(root).rstrip("/")


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
        why = error.strerror or str(error) or type(error).__name__
        fix = "make room, or give the server a place that it may write, and call again"
        raise UnavailableError(
            f"packages can not be kept or read: {why}", field="blobs", value=where, fix=fix
        ) from error
