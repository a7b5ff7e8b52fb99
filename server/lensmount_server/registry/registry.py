"""Versions, aliases and their journal in a database, packages in a blob store.

A version is there when its row is: its package was safe before that, and is removed only
after the row says that the version is gone. What a crash leaves half-way is written down
beforehand (`blobs`), and finished by the next start.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update

from lensmount.errors import LensmountError, NotFoundError, UnavailableError
from lensmount_adapters.package import Package, content_hash
from lensmount_server.frames import VersionId
from lensmount_server.registry import aliases, journal, records, removing, usage
from lensmount_server.registry.aliases import Change, Expected
from lensmount_server.registry.blobs import BlobStore, open_blobs
from lensmount_server.registry.database import Database, sqlite_url
from lensmount_server.registry.home import Home
from lensmount_server.registry.journal import NOBODY, By, Entry, Kind
from lensmount_server.registry.records import Filter, Number, Record
from lensmount_server.registry.tables import blobs, counter, tags, versions

WRITING, KEPT, DROPPING = "writing", "kept", removing.DROPPING


@dataclass(frozen=True)
class Places:
    """Where a registry is: its database by URL and its packages by address; "" for both: in the data directory."""

    database: str = ""
    blobs: str = ""


@dataclass(frozen=True)
class Collected:
    """Versions that went, or would go, and what their packages take."""

    removed: tuple[VersionId, ...]
    size_bytes: int


class Registry:
    """A registry as one server sees it; its methods block and may be called from any thread."""

    def __init__(self, directory: Path, places: Places | None = None) -> None:
        """Open or make the registry.

        Raises UnavailableError when the directory or the database can not be used, InvalidInputError or
        IncompatibleError for places that can not work.
        """
        places = places or Places()
        with ExitStack() as undo:
            self._home = Home(directory)
            undo.callback(self._home.close)
            self._blobs: BlobStore = open_blobs(places.blobs or str(directory / "blobs"), directory)
            self._database = Database(places.database or sqlite_url(directory / "registry.sqlite"))
            undo.callback(self._database.close)
            self._begin()
            undo.pop_all()

    def close(self) -> None:
        """Close the database and let go of the directory."""
        with suppress(UnavailableError), self._database.writing() as connection:
            usage.forget(connection, self._home.server)
        self._database.close()
        self._home.close()

    @property
    def directory(self) -> Path:
        """The server's own folder."""
        return self._home.directory

    def staging(self) -> AbstractContextManager[Path]:
        """A folder for an upload, removed afterwards whatever happens."""
        return self._home.staging()

    def add(
        self, package: Package, folder: Path, by: By = NOBODY, marks: Mapping[str, str] | None = None
    ) -> tuple[Record, bool]:
        """Keep a checked package (its folder is moved in); False when its content was there before.

        `marks` are the tags of a new version. What was there and is damaged by now is put right.
        Raises UnavailableError; nothing is kept then.
        """
        known = self.find(package.content_hash)
        if known is not None and self._intact(known):
            return self._again(known, by), False
        key = f"{package.content_hash}-{secrets.token_hex(4)}"
        with self._storing(key, folder), self._database.writing() as connection:
            found = records.read_hash(connection, package.content_hash)
            if found is None:
                return self._insert(connection, package, key, by, marks or {}), True
            self._mend(connection, found, key)
        self._sweep()
        return self._again(found, by), False

    def set_alias(
        self, task: str, alias: str, version: int, expected: Expected | None = None, by: By = NOBODY
    ) -> Change:
        """Point an alias at a version.

        Raises NotFoundError for a version that is not there, ConflictError when the alias is not as `expected`.
        """
        with self._database.writing() as connection:
            return aliases.set_alias(connection, task, alias, version, expected or Expected(), by)

    def rollback_target(self, task: str, alias: str, version: int | None = None) -> tuple[Entry, Expected]:
        """Where a rollback would go (see `aliases.rollback_target`), and what `roll_back` is to expect."""
        with self._database.reading() as connection:
            return aliases.rollback_target(connection, task, alias, version)

    def roll_back(self, target: Entry, alias: str, expected: Expected, by: By = NOBODY) -> Change:
        """Point an alias back. Raises NotFoundError or ConflictError."""
        task, version = target.version.task, target.version.version
        with self._database.writing() as connection:
            return aliases.set_alias(connection, task, alias, version, expected, by, target)

    def delete_alias(self, task: str, alias: str, expected: Expected | None = None, by: By = NOBODY) -> None:
        """Take an alias away. Raises NotFoundError or ConflictError."""
        with self._database.writing() as connection:
            aliases.delete_alias(connection, task, alias, expected or Expected(), by)

    def delete(self, task: str, version: int, by: By = NOBODY) -> None:
        """Delete a version. Raises NotFoundError, IncompatibleError while an alias or a pin holds it."""
        with self._database.writing() as connection:
            record = records.read_record(connection, task, version)
            removing.check_free(record)
            removing.remove_version(connection, record, by, Kind.DELETED)
        self._sweep()

    def delete_task(self, task: str, by: By = NOBODY) -> int:
        """Delete a task, aliases and versions; returns how many. Raises NotFoundError, IncompatibleError for a pin."""
        with self._database.writing() as connection:
            found = removing.versions_of(connection, task)
            for pinned in (record for record in found if record.pin_reason is not None):
                removing.check_free(pinned)
            for alias in {alias for record in found for alias in record.aliases}:
                aliases.delete_alias(connection, task, alias, Expected(), by)
            for record in found:
                removing.remove_version(connection, record, by, Kind.DELETED, "with its task")
        self._sweep()
        return len(found)

    def collect(self, keep: int, task: str = "", by: By = NOBODY, *, dry_run: bool = False) -> Collected:
        """Delete versions that nothing needs (see `removing.superfluous`), or say which those would be."""
        with self._database.writing() as connection:
            found = removing.superfluous(connection, task, keep, usage.used(connection))
            for record in () if dry_run else found:
                removing.remove_version(connection, record, by, Kind.COLLECTED, f"beyond the newest {keep}")
        if not dry_run:
            self._sweep()
        return Collected(tuple(record.id for record in found), sum(record.size_bytes for record in found))

    def tag(self, task: str, version: int, put: Mapping[str, str], drop: Collection[str], by: By = NOBODY) -> None:
        """Change the tags of a version. Raises NotFoundError."""
        with self._database.writing() as connection:
            identity = records.read_identity(connection, task, version)
            _forget_tags(connection, identity, {*put, *drop})
            _put_tags(connection, identity, put)
            detail = " ".join([*(f"{key}={value}" for key, value in put.items()), *(f"-{key}" for key in drop)])
            journal.write(connection, Kind.TAGGED, identity, by, detail=detail)

    def pin(self, task: str, version: int, reason: str | None, by: By = NOBODY) -> None:
        """Pin a version for a reason, or, with None, take the pin away. Raises NotFoundError."""
        with self._database.writing() as connection:
            identity = records.read_identity(connection, task, version)
            mine = update(versions).where(versions.c.task == task, versions.c.version == version)
            connection.execute(mine.values(pinned=int(reason is not None), pin_reason=reason or ""))
            kind = Kind.UNPINNED if reason is None else Kind.PINNED
            journal.write(connection, kind, identity, by, detail=reason or "")

    def refuse(self, task: str, error: LensmountError, by: By = NOBODY) -> None:
        """Write down that a package was refused, and why."""
        with self._database.writing() as connection:
            journal.write(connection, Kind.REFUSED, VersionId(task, 0, ""), by, detail=str(error))
            journal.forget_idle(connection)

    def get(self, task: str, version: int) -> Record:
        """One version; raises NotFoundError."""
        with self._database.reading() as connection:
            return records.read_record(connection, task, version)

    def find(self, content: str) -> Record | None:
        """The version with this content hash."""
        with self._database.reading() as connection:
            return records.read_hash(connection, content)

    def resolve(self, task: str, alias: str) -> Record:
        """The version that an alias points at; raises NotFoundError."""
        with self._database.reading() as connection:
            row = records.read_alias(connection, task, alias)
            if row is None:
                raise records.no_alias(task, alias)
            return records.read_record(connection, task, row.version)

    def page(self, size: int, before: int | None = None, wanted: Filter | None = None) -> list[Record]:
        """At most `size` versions, newest first, beyond the one with `seq` `before`."""
        with self._database.reading() as connection:
            return records.read_page(connection, size, before, wanted or Filter())

    def pointed(self) -> tuple[list[tuple[str, VersionId, int]], int]:
        """Every alias with the version that it points at and the entry that set it; and the last entry's number."""
        with self._database.reading() as connection:
            return records.read_pointed(connection), int(connection.execute(select(counter.c.seq)).scalar_one())

    def identify(self, task: str, version: int) -> VersionId:
        """Which content a version is; raises NotFoundError."""
        with self._database.reading() as connection:
            return records.read_identity(connection, task, version)

    def foreign(self, fingerprint: str) -> int:
        """How many versions that an alias points at are for another backbone than this one."""
        with self._database.reading() as connection:
            return records.count_foreign(connection, fingerprint)

    def events(self, size: int, before: int | None = None, task: str = "", alias: str = "") -> list[Entry]:
        """At most `size` entries of the journal, newest first, before the one with number `before`."""
        with self._database.reading() as connection:
            return journal.read_page(connection, size, before, task, alias)

    def since(self, seq: int, limit: int, tasks: Collection[str] = ()) -> list[Entry]:
        """At most so many entries after `seq`, oldest first."""
        with self._database.reading() as connection:
            return journal.read_since(connection, seq, limit, tasks)

    def folder(self, version: VersionId) -> Path:
        """A local folder with a version's package. Raises NotFoundError or UnavailableError."""
        with self._database.reading() as connection:
            key = records.read_blob(connection, version)
        return self._blobs.get(key)

    def use(self, numbers: Iterable[Number]) -> None:
        """Note that streams here ask for these versions: nobody collects them. Raises NotFoundError."""
        with self._database.writing() as connection:
            for number in numbers:
                records.read_identity(connection, *number)
                usage.use(connection, self._home.server, number)

    def unuse(self, numbers: Iterable[Number]) -> None:
        """Note that they do not any more."""
        with self._database.writing() as connection:
            for number in numbers:
                usage.unuse(connection, self._home.server, number)

    def beat(self) -> None:
        """Note that this server is alive."""
        with self._database.writing() as connection:
            usage.beat(connection, self._home.server)

    def _begin(self) -> None:
        with self._database.writing() as connection:
            usage.forget(connection, self._home.server)
            usage.beat(connection, self._home.server)
            mine = (blobs.c.server == self._home.server) | blobs.c.server.not_in(usage.living(connection))
            begun = update(blobs).where(blobs.c.state == WRITING, mine)
            connection.execute(begun.values(state=DROPPING))
        self._sweep()

    def _sweep(self) -> None:
        """Remove the packages that no row needs."""
        with self._database.reading() as connection:
            keys = list(connection.execute(select(blobs.c.key).where(blobs.c.state == DROPPING)).scalars())
        for key in keys:
            self._blobs.remove(key)
        if keys:
            with self._database.writing() as connection:
                connection.execute(delete(blobs).where(blobs.c.key.in_(keys), blobs.c.state == DROPPING))

    @contextmanager
    def _storing(self, key: str, folder: Path) -> Iterator[None]:
        """Store a package, which is taken back unless the block ends well."""
        with self._database.writing() as connection:
            row = {"key": key, "state": WRITING, "server": self._home.server, "time_ns": time.time_ns()}
            connection.execute(blobs.insert(), row)
        try:
            self._blobs.put(key, folder)
            yield
        except BaseException:
            self._take_back(key)
            raise

    def _take_back(self, key: str) -> None:
        """Let a package go that no version has; where that can not be written down now, the next start does it."""
        with suppress(UnavailableError):
            with self._database.writing() as connection:
                mine = update(blobs).where(blobs.c.key == key, blobs.c.state == WRITING)
                connection.execute(mine.values(state=DROPPING))
            self._sweep()

    def _intact(self, record: Record) -> bool:
        try:
            return content_hash(self._blobs.get(record.blob)) == record.id.content_hash
        except (OSError, NotFoundError):
            return False

    def _again(self, known: Record, by: By) -> Record:
        with self._database.writing() as connection:
            journal.write(connection, Kind.REGISTERED_AGAIN, known.id, by)
            journal.forget_idle(connection)
        return self.get(known.id.task, known.id.version)

    def _mend(self, connection: Connection, found: Record, key: str) -> None:
        """Let a version have the package that was stored just now, instead of its damaged one."""
        mine = versions.c.blob == found.blob
        connection.execute(update(versions).where(mine).values(blob=key))
        connection.execute(update(blobs).where(blobs.c.key == key).values(state=KEPT))
        connection.execute(update(blobs).where(blobs.c.key == found.blob).values(state=DROPPING))

    def _insert(self, connection: Connection, package: Package, key: str, by: By, marks: Mapping[str, str]) -> Record:
        manifest = package.manifest
        last = connection.execute(select(func.max(versions.c.version)).where(versions.c.task == manifest.task)).scalar()
        identity = VersionId(manifest.task, (last or 0) + 1, package.content_hash)
        entry = journal.write(connection, Kind.REGISTERED, identity, by)
        connection.execute(
            versions.insert(),
            {
                "task": identity.task,
                "version": identity.version,
                "content_hash": identity.content_hash,
                "seq": entry.seq,
                "manifest": manifest.model_dump_json(),
                "backbone_fingerprint": manifest.backbone.fingerprint,
                "size_bytes": package.size_bytes,
                "registered_time_ns": entry.time_ns,
                "registered_by": by.actor,
                "origin": by.origin,
                "blob": key,
                "search": "\n".join([manifest.task, manifest.strategy, *manifest.labels]).lower(),
                "pinned": 0,
                "pin_reason": "",
            },
        )
        _put_tags(connection, identity, marks)
        connection.execute(update(blobs).where(blobs.c.key == key).values(state=KEPT))
        return records.read_record(connection, identity.task, identity.version)


def _put_tags(connection: Connection, version: VersionId, put: Mapping[str, str]) -> None:
    for key, value in put.items():
        row = {"task": version.task, "version": version.version, "key": key, "value": value}
        connection.execute(tags.insert(), row)


def _forget_tags(connection: Connection, version: VersionId, keys: Collection[str]) -> None:
    mine = (tags.c.task == version.task) & (tags.c.version == version.version)
    connection.execute(delete(tags).where(mine, tags.c.key.in_(keys)))
