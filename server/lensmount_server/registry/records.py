"""Registered versions as they are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, and_, func, or_, select, tuple_

from lensmount.errors import NotFoundError
from lensmount_adapters.manifest import Manifest
from lensmount_server.frames import VersionId
from lensmount_server.registry.journal import By
from lensmount_server.registry.tables import ALIVE, aliases, tags, versions

IDENTITY = (versions.c.task, versions.c.version, versions.c.content_hash)
POINTED = and_(versions.c.task == aliases.c.task, versions.c.version == aliases.c.version)
_LOOK = "list what there is with `lensmount adapters list`"

T = TypeVar("T")

Number = tuple[str, int]
# What fits into the column.
MAX_VERSION = 2**31 - 1
# Things that one statement names; SQLite takes 32,766 values.
BATCH = 500


@dataclass(frozen=True)
class AliasState:
    """An alias of a version; `etag` changes whenever the alias does."""

    alias: str
    etag: str
    set_time_ns: int


@dataclass(frozen=True)
class Record:
    """A registered version: its identity, what its package says, and what is noted about it.

    `pin_reason` is None unless it is pinned. `seq` grows with each registration.
    """

    id: VersionId
    manifest: Manifest
    size_bytes: int
    registered_time_ns: int
    seq: int
    blob: str
    by: By
    states: tuple[AliasState, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    pin_reason: str | None = None

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names of the aliases that point at it."""
        return tuple([state.alias for state in self.states])


@dataclass(frozen=True)
class Filter:
    """Which versions are asked for; what is empty does not matter.

    `query` is looked for in task, strategy, labels and tags; an empty value of `tags` means the key alone.
    """

    task: str = ""
    alias: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    pinned_only: bool = False


def read_record(connection: Connection, task: str, version: int) -> Record:
    """One version; raises NotFoundError, which says so when it was deleted."""
    return _records(connection, [_row(connection, task, version)])[0]


def read_hash(connection: Connection, content_hash: str) -> Record | None:
    """The version of this content, if there is one."""
    row = connection.execute(select(versions).where(versions.c.content_hash == content_hash, ALIVE)).first()
    return _records(connection, [row])[0] if row is not None else None


def read_identity(connection: Connection, task: str, version: int) -> VersionId:
    """Which content a version is; raises NotFoundError."""
    row = _row(connection, task, version)
    return VersionId(row.task, row.version, row.content_hash)


def read_identities(connection: Connection, task: str, limit: int | None) -> list[VersionId]:
    """The versions of a task, or of all where it is "", by task and number; at most so many."""
    query = select(*IDENTITY).where(ALIVE).order_by(versions.c.task, versions.c.version).limit(limit)
    if task:
        query = query.where(versions.c.task == task)
    return [VersionId(*identity) for identity in connection.execute(query)]


def read_blob(connection: Connection, version: VersionId) -> str:
    """The key of a version's package; raises NotFoundError."""
    row = _row(connection, version.task, version.version)
    if row.content_hash != version.content_hash:
        value, fix = f"{version.task}:{version.version}", "ask for it again"
        raise NotFoundError("another content has this number", field="adapter", value=value, fix=fix)
    return str(row.blob)


def read_alias(connection: Connection, task: str, alias: str) -> Row[Any] | None:
    """The row of an alias."""
    return connection.execute(select(aliases).where(aliases.c.task == task, aliases.c.alias == alias)).first()


def read_page(connection: Connection, size: int, before: int | None, wanted: Filter) -> list[Record]:
    """At most `size` versions that were registered before the one with this `seq`, newest first."""
    query = _filtered(select(versions).where(ALIVE), wanted).order_by(versions.c.seq.desc()).limit(size)
    if before is not None:
        query = query.where(versions.c.seq < before)
    return _records(connection, list(connection.execute(query)))


def read_numbers(connection: Connection, numbers: Collection[Number]) -> list[Record]:
    """These versions, in the same order."""
    found: dict[Number, Record] = {}
    for some in batched(numbers):
        query = select(versions).where(tuple_(versions.c.task, versions.c.version).in_(some))
        found |= {
            (each.id.task, each.id.version): each for each in _records(connection, connection.execute(query).all())
        }
    return [found[number] for number in numbers]


def batched(items: Collection[T]) -> Iterator[Sequence[T]]:
    """As many at a time as a statement takes."""
    rest = iter(items)
    while some := tuple(islice(rest, BATCH)):
        yield some


def read_pointed(connection: Connection) -> list[tuple[str, VersionId, int]]:
    """Every alias with the version that it points at and the entry that set it: one query, whatever there is."""
    query = select(aliases.c.alias, *IDENTITY, aliases.c.seq).join(versions, POINTED)
    return [(alias, VersionId(*identity), seq) for alias, *identity, seq in connection.execute(query)]


def read_without(connection: Connection, alias: str) -> list[tuple[str, int]]:
    """The tasks of which no version has this alias, each with its newest version."""
    have = select(aliases.c.task).where(aliases.c.alias == alias)
    query = select(versions.c.task, func.max(versions.c.version)).where(ALIVE, versions.c.task.not_in(have))
    return [(task, version) for task, version in connection.execute(query.group_by(versions.c.task))]


def count_foreign(connection: Connection, fingerprint: str) -> int:
    """How many versions that an alias points at are for another backbone than this one."""
    query = select(func.count()).select_from(aliases.join(versions, POINTED))
    return int(connection.execute(query.where(versions.c.backbone_fingerprint != fingerprint)).scalar_one())


def no_alias(task: str, alias: str) -> NotFoundError:
    """What is said of an alias that is not there."""
    return NotFoundError("no such task or alias", field="adapter", value=f"{task}@{alias}", fix=_LOOK)


def _row(connection: Connection, task: str, version: int) -> Row[Any]:
    query = select(versions).where(versions.c.task == task, versions.c.version == version)
    row = connection.execute(query).first() if version <= MAX_VERSION else None
    if row is None or row.deleted_time_ns is not None:
        message = "no such adapter version" if row is None else "this version was deleted"
        raise NotFoundError(message, field="adapter", value=f"{task}:{version}", fix=_LOOK)
    return row


def _filtered(query: Select[Any], wanted: Filter) -> Select[Any]:
    if wanted.task:
        query = query.where(versions.c.task == wanted.task)
    if wanted.alias:
        query = query.join(aliases, POINTED).where(aliases.c.alias == wanted.alias)
    if wanted.pinned_only:
        query = query.where(versions.c.pinned == 1)
    mine = and_(tags.c.task == versions.c.task, tags.c.version == versions.c.version)
    for key, value in wanted.tags.items():
        same = and_(tags.c.key == key, tags.c.value == value) if value else tags.c.key == key
        query = query.where(select(tags.c.key).where(mine, same).exists())
    if wanted.query:
        text = wanted.query.casefold()
        tagged = select(tags.c.key).where(mine, tags.c.search.contains(text, autoescape=True))
        query = query.where(or_(versions.c.search.contains(text, autoescape=True), tagged.exists()))
    return query


def _records(connection: Connection, rows: Collection[Row[Any]]) -> list[Record]:
    tasks, numbers = {row.task for row in rows}, {row.version for row in rows}
    states: dict[Number, list[AliasState]] = {}
    marks: dict[Number, dict[str, str]] = {}
    pointing = select(aliases).where(aliases.c.task.in_(tasks), aliases.c.version.in_(numbers))
    for row in connection.execute(pointing.order_by(aliases.c.alias)):
        state = AliasState(row.alias, str(row.seq), row.set_time_ns)
        states.setdefault((row.task, row.version), []).append(state)
    marked = select(tags).where(tags.c.task.in_(tasks), tags.c.version.in_(numbers)).order_by(tags.c.key)
    for row in connection.execute(marked):
        marks.setdefault((row.task, row.version), {})[row.key] = row.value
    return [_record(row, states, marks) for row in rows]


def _record(row: Row[Any], states: Mapping[Number, list[AliasState]], marks: Mapping[Number, dict[str, str]]) -> Record:
    number = (row.task, row.version)
    return Record(
        id=VersionId(row.task, row.version, row.content_hash),
        manifest=Manifest.model_validate_json(row.manifest),
        size_bytes=row.size_bytes,
        registered_time_ns=row.registered_time_ns,
        seq=row.seq,
        blob=row.blob,
        by=By(row.registered_by, row.origin),
        states=tuple(states.get(number, ())),
        tags=marks.get(number, {}),
        pin_reason=row.pin_reason if row.pinned else None,
    )
