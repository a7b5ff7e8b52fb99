"""Versions and aliases, and the folder that keeps the packages.

A package is moved to its place under its content hash before its row is written, so a
version is either wholly there or not at all; what a crash left without a row is removed at
the next start.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from lensmount.errors import ConflictError, NotFoundError, UnavailableError
from lensmount_adapters.manifest import Manifest
from lensmount_adapters.package import Package, content_hash
from lensmount_server.frames import VersionId
from lensmount_server.registry.tables import aliases, open_database, versions

_IDENTITY = (versions.c.task, versions.c.version, versions.c.content_hash)
_POINTED = (versions.c.task == aliases.c.task) & (versions.c.version == aliases.c.version)


@dataclass(frozen=True)
class Record:
    """A registered version: its identity, what its package says, and the aliases that point at it."""

    id: VersionId
    manifest: Manifest
    size_bytes: int
    registered_time_ns: int
    aliases: tuple[str, ...]


class Registry:
    """The registry in one data directory; its methods block and may be called from any thread."""

    def __init__(self, directory: Path) -> None:
        """Open or make the registry; UnavailableError when it can not be written or is in use."""
        self._directory = directory
        self._write = threading.Lock()
        try:
            for folder in (self._blobs, self._staging):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = (directory / "lock").open("w")
        except OSError as error:
            fix = "give --data-dir a folder that you may write"
            raise UnavailableError(str(error), field="data_dir", value=directory, fix=fix) from error
        self._claim()
        try:
            self._database = open_database(directory / "registry.sqlite")
            self._sweep()
        except DatabaseError as error:
            self._lock.close()
            fix = "put back a copy of registry.sqlite, or give --data-dir another folder"
            message = f"registry.sqlite can not be read: {error.orig}"
            raise UnavailableError(message, field="data_dir", value=directory, fix=fix) from error

    def close(self) -> None:
        """Close the database and let go of the directory."""
        self._database.dispose()
        self._lock.close()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder for an upload, removed afterwards whatever happens."""
        folder = self._staging / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, package: Package, folder: Path) -> tuple[Record, bool]:
        """Keep a checked package (its folder is moved in); False when its content was there before.

        What was there and is damaged by now is put right.
        """
        with self._write:
            known = self._by_hash(package.content_hash)
            if known is None:
                self._keep(package, folder)
            elif not self._intact(package.content_hash):
                self._move_in(folder, package.content_hash)
            return known or self.get(package.manifest.task, self._latest(package.manifest.task)), known is None

    def set_alias(self, task: str, alias: str, version: int, expected: int | None) -> int:
        """Point an alias at a version; returns the version before, 0 when the alias is new.

        Raises NotFoundError for a version that is not there, ConflictError when the alias does
        not point at `expected`.
        """
        with self._write:
            self.get(task, version)
            with self._database.begin() as connection:
                previous = self._pointed(connection, task, alias)
                if expected is not None and expected != previous:
                    message = f"{task}@{alias} points at version {previous} by now"
                    fix = "look with `lensmount adapters list` and decide again"
                    raise ConflictError(message, field="expected_version", value=expected, fix=fix)
                values = {"task": task, "alias": alias, "version": version, "set_time_ns": time.time_ns()}
                statement = insert(aliases).values(values)
                connection.execute(statement.on_conflict_do_update(index_elements=["task", "alias"], set_=values))
        return previous

    def get(self, task: str, version: int) -> Record:
        """One version; raises NotFoundError."""
        with self._database.connect() as connection:
            query = select(versions).where(versions.c.task == task, versions.c.version == version)
            row = connection.execute(query).first()
            if row is None:
                raise _no_version(task, version)
            return _record(row, self._aliases_of(connection, [task]))

    def resolve(self, task: str, alias: str) -> Record:
        """The version that an alias points at; raises NotFoundError."""
        with self._database.connect() as connection:
            version = self._pointed(connection, task, alias)
        if not version:
            fix = "list what there is with `lensmount adapters list`"
            raise NotFoundError("no such task or alias", field="adapter", value=f"{task}@{alias}", fix=fix)
        return self.get(task, version)

    def page(self, task: str, size: int, after: tuple[int, str] | None) -> list[Record]:
        """At most `size` versions of `task` ("": of all), newest first, beyond (time, hash) `after`."""
        key = (versions.c.registered_time_ns, versions.c.content_hash)
        query = select(versions).order_by(*(column.desc() for column in key)).limit(size)
        if task:
            query = query.where(versions.c.task == task)
        if after:
            query = query.where((key[0] < after[0]) | ((key[0] == after[0]) & (key[1] < after[1])))
        with self._database.connect() as connection:
            rows = connection.execute(query).all()
            names = self._aliases_of(connection, {row.task for row in rows})
        return [_record(row, names) for row in rows]

    def pointed(self) -> list[tuple[str, VersionId]]:
        """Every alias with the version that it points at: one query, whatever there is."""
        query = select(aliases.c.alias, *_IDENTITY).join(versions, _POINTED)
        with self._database.connect() as connection:
            return [(alias, VersionId(*identity)) for alias, *identity in connection.execute(query)]

    def identify(self, task: str, version: int) -> VersionId:
        """Which content a version is; raises NotFoundError."""
        query = select(*_IDENTITY).where(versions.c.task == task, versions.c.version == version)
        with self._database.connect() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise _no_version(task, version)
        return VersionId(*row)

    def foreign(self, fingerprint: str) -> int:
        """How many versions that an alias points at are for another backbone than this one."""
        other = func.json_extract(versions.c.manifest, "$.backbone.fingerprint") != fingerprint
        query = select(func.count()).select_from(aliases.join(versions, _POINTED)).where(other)
        with self._database.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def folder(self, content_hash: str) -> Path:
        """Where a version's package lies."""
        return self._blobs / content_hash

    @property
    def _blobs(self) -> Path:
        return self._directory / "blobs"

    @property
    def _staging(self) -> Path:
        return self._directory / "staging"

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            fix = "stop the other server, or give --data-dir another folder"
            message = "another server uses this data directory"
            raise UnavailableError(message, field="data_dir", value=self._directory, fix=fix) from error

    def _sweep(self) -> None:
        """Remove what a crash left behind: uploads, and packages without a row."""
        with self._database.connect() as connection:
            known = set(connection.execute(select(versions.c.content_hash)).scalars())
        leftover = [path for path in self._blobs.iterdir() if path.name not in known]
        for path in (*leftover, *self._staging.iterdir()):
            shutil.rmtree(path, ignore_errors=True)

    def _keep(self, package: Package, folder: Path) -> None:
        """Move a package to its place and write its row; without the row it does not stay there."""
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, self.folder(package.content_hash), ignore_errors=True)
            self._move_in(folder, package.content_hash)
            with self._database.begin() as connection:
                self._insert(connection, package)
            undo.pop_all()

    def _move_in(self, folder: Path, hash_: str) -> None:
        shutil.rmtree(self.folder(hash_), ignore_errors=True)
        folder.rename(self.folder(hash_))

    def _intact(self, hash_: str) -> bool:
        try:
            return content_hash(self.folder(hash_)) == hash_
        except OSError:
            return False

    def _insert(self, connection: Connection, package: Package) -> None:
        task = package.manifest.task
        last = connection.execute(select(func.max(versions.c.version)).where(versions.c.task == task)).scalar()
        connection.execute(
            versions.insert().values(
                content_hash=package.content_hash,
                task=task,
                version=(last or 0) + 1,
                manifest=package.manifest.model_dump_json(),
                size_bytes=package.size_bytes,
                registered_time_ns=time.time_ns(),
            )
        )

    def _by_hash(self, content_hash: str) -> Record | None:
        with self._database.connect() as connection:
            row = connection.execute(select(versions).where(versions.c.content_hash == content_hash)).first()
            return _record(row, self._aliases_of(connection, [row.task])) if row else None

    def _latest(self, task: str) -> int:
        with self._database.connect() as connection:
            query = select(func.max(versions.c.version)).where(versions.c.task == task)
            return int(connection.execute(query).scalar_one())

    def _pointed(self, connection: Connection, task: str, alias: str) -> int:
        query = select(aliases.c.version).where(aliases.c.task == task, aliases.c.alias == alias)
        return int(connection.execute(query).scalar() or 0)

    def _aliases_of(self, connection: Connection, tasks: Collection[str]) -> dict[tuple[str, int], list[str]]:
        names: dict[tuple[str, int], list[str]] = {}
        for row in connection.execute(select(aliases).where(aliases.c.task.in_(tasks)).order_by(aliases.c.alias)):
            names.setdefault((row.task, row.version), []).append(row.alias)
        return names


def _no_version(task: str, version: int) -> NotFoundError:
    fix = "list what there is with `lensmount adapters list`"
    return NotFoundError("no such adapter version", field="adapter", value=f"{task}:{version}", fix=fix)


def _record(row: Row[Any], names: dict[tuple[str, int], list[str]]) -> Record:
    return Record(
        id=VersionId(row.task, row.version, row.content_hash),
        manifest=Manifest.model_validate_json(row.manifest),
        size_bytes=row.size_bytes,
        registered_time_ns=row.registered_time_ns,
        aliases=tuple(names.get((row.task, row.version), ())),
    )
