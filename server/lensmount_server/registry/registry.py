"""Versions, aliases and their journal in a database, packages in a blob store.

A version is there when its row is: its package was safe before that, and is removed only
after the row says that the version is gone (`packages`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update

from lensmount.errors import LensmountError, NotFoundError, UnavailableError
from lensmount_adapters.package import Content, Package, read_content
from lensmount_server.frames import VersionId
from lensmount_server.registry import aliases, journal, records, removing, usage
from lensmount_server.registry.aliases import Change, Expected
from lensmount_server.registry.blobs import open_blobs
from lensmount_server.registry.database import Database, sqlite_url
from lensmount_server.registry.home import Home
from lensmount_server.registry.journal import NOBODY, By, Entry, Kind
from lensmount_server.registry.packages import Packages, claim, drop
from lensmount_server.registry.records import Filter, Number, Record
from lensmount_server.registry.tables import counter, tags, versions

# Versions that one transaction collects.
COLLECTED_AT_ONCE = 200


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
            store = open_blobs(places.blobs or str(directory / "blobs"), directory)
            self._database = Database(places.database or sqlite_url(directory / "registry.sqlite"))
            undo.callback(self._database.close)
            self._offered: dict[str, Path] = {}
            self._packages = Packages(self._database, store, self._home.server)
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
        Raises UnavailableError; nothing is kept then, or all of it where only the database's answer was lost.
        """
        known = self.find(package.content_hash)
        if known is not None and self._packages.intact(known):
            with self._database.writing() as connection:
                found = _again(connection, package.content_hash, by)
            if found is not None:
                return found, False
        with self._packages.storing(package.content_hash, folder) as key, self._database.writing() as connection:
            found = _again(connection, package.content_hash, by)
            if found is None:
                return _insert(connection, package, key, by, marks or {}), True
            if known is not None and known.blob == found.blob:
                found = _mend(connection, found, key)
            else:
                drop(connection, key)  # it was registered meanwhile
        self._packages.sweep()
        return found, False

    def set_alias(
        self, task: str, alias: str, version: int, expected: Expected | None = None, by: By = NOBODY
    ) -> Change:
        """Point an alias at a version.

        Raises NotFoundError for a version that is not there, ConflictError when the alias is not as `expected`.
        """
        with self._database.writing() as connection:
            return aliases.set_alias(connection, task, alias, version, expected or Expected(), by)

    def rollback_target(
        self, task: str, alias: str, version: int | None = None, etag: str | None = None
    ) -> tuple[Entry, Expected]:
        """Where a rollback would go (see `aliases.rollback_target`), and what `roll_back` is to expect."""
        with self._database.reading() as connection:
            return aliases.rollback_target(connection, task, alias, version, etag)

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
        self._packages.sweep()

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
        self._packages.sweep()
        return len(found)

    def collect(self, keep: int, task: str = "", by: By = NOBODY, *, dry_run: bool = False) -> Collected:
        """Delete versions that nothing needs (see `removing.superfluous`), or say which those would be.

        A few at a time: others who write wait for these only.
        """
        found: list[Record] = []
        if dry_run:
            with self._database.reading() as connection:
                found = removing.superfluous(connection, task, keep, usage.used(connection))
        else:
            while len(found) % COLLECTED_AT_ONCE == 0 and (some := self._collect_some(keep, task, by)):
                found += some
            self._packages.sweep()
        return Collected(tuple(record.id for record in found), sum(record.size_bytes for record in found))

    def _collect_some(self, keep: int, task: str, by: By) -> list[Record]:
        with self._database.writing() as connection:
            found = removing.superfluous(connection, task, keep, usage.used(connection), COLLECTED_AT_ONCE)
            for record in found:
                removing.remove_version(connection, record, by, Kind.COLLECTED, f"beyond the newest {keep}")
        return found

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

    def without_alias(self, alias: str) -> list[tuple[str, int]]:
        """The tasks of which no version has this alias, each with the number of its newest version."""
        with self._database.reading() as connection:
            return records.read_without(connection, alias)

    def identify(self, task: str, version: int) -> VersionId:
        """Which content a version is; raises NotFoundError."""
        with self._database.reading() as connection:
            return records.read_identity(connection, task, version)

    def identities(self, task: str = "", limit: int | None = None) -> list[VersionId]:
        """The versions of a task, or of all, by task and number; at most so many."""
        with self._database.reading() as connection:
            return records.read_identities(connection, task, limit)

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
        return self._packages.folder(self._blob(version))

    @contextmanager
    def offered(self, content: str, folder: Path) -> Iterator[None]:
        """While open, `package` finds this content in `folder`: it is on trial, and not registered yet."""
        self._offered[content] = folder
        try:
            yield
        finally:
            if self._offered.get(content) == folder:
                del self._offered[content]

    def package(self, content: str) -> Path:
        """A local folder with a package that is registered or on trial. Raises NotFoundError or UnavailableError."""
        folder = self._offered.get(content)
        if folder is not None and folder.is_dir():
            return folder
        record = self.find(content)
        if record is None:
            raise NotFoundError("its package is gone", field="adapter", value=content[:12], fix="register it again")
        return self.folder(record.id)

    def read(self, version: VersionId) -> Content:
        """What of a version's package runs, its bytes those that were registered.

        A copy on this machine that was damaged is fetched again, and what another server put right or took away on
        the way is looked up again. Raises NotFoundError, UnavailableError, and what `read_content` raises.
        """
        try:
            return read_content(self.folder(version), version.content_hash)
        except (OSError, LensmountError):
            folder = self._packages.folder(self._blob(version), anew=True)
            return read_content(folder, version.content_hash)

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

    def _blob(self, version: VersionId) -> str:
        with self._database.reading() as connection:
            return records.read_blob(connection, version)

    def _begin(self) -> None:
        with self._database.writing() as connection:
            usage.forget(connection, self._home.server)
            usage.beat(connection, self._home.server)
            self._packages.abandon(connection, usage.living(connection))
        self._packages.sweep()


def _again(connection: Connection, content: str, by: By) -> Record | None:
    """Write down that a version of this content was registered again; None where there is none."""
    found = records.read_hash(connection, content)
    if found is not None:
        journal.write(connection, Kind.REGISTERED_AGAIN, found.id, by)
        journal.forget_idle(connection)
    return found


def _mend(connection: Connection, found: Record, key: str) -> Record:
    """Let a version have the package that was stored just now, instead of its damaged one."""
    connection.execute(update(versions).where(versions.c.blob == found.blob).values(blob=key))
    claim(connection, key)
    drop(connection, found.blob)
    return replace(found, blob=key)


def _insert(connection: Connection, package: Package, key: str, by: By, marks: Mapping[str, str]) -> Record:
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
            "search": "\n".join([manifest.task, manifest.strategy, *manifest.labels]).casefold(),
            "pinned": 0,
            "pin_reason": "",
        },
    )
    _put_tags(connection, identity, marks)
    claim(connection, key)
    return records.read_record(connection, identity.task, identity.version)


def _put_tags(connection: Connection, version: VersionId, put: Mapping[str, str]) -> None:
    for key, value in put.items():
        search = f"{key}\n{value}".casefold()
        row = {"task": version.task, "version": version.version, "key": key, "value": value, "search": search}
        connection.execute(tags.insert(), row)


def _forget_tags(connection: Connection, version: VersionId, keys: Collection[str]) -> None:
    mine = (tags.c.task == version.task) & (tags.c.version == version.version)
    connection.execute(delete(tags).where(mine, tags.c.key.in_(keys)))
