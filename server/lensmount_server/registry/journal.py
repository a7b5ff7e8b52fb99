"""The journal: who did what to which version, when, from where, with which verdict."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from lensmount_server.frames import VersionId
from lensmount_server.registry.database import next_seq
from lensmount_server.registry.tables import journal

# Anybody can send packages that change nothing: so many of these entries are kept.
MAX_IDLE = 10_000
MAX_DETAIL = 1000


class Kind(StrEnum):
    """What happened; see AdapterEvent in adapters.proto."""

    REGISTERED = "registered"
    REGISTERED_AGAIN = "registered_again"
    REFUSED = "refused"
    ALIAS_SET = "alias_set"
    ROLLED_BACK = "rolled_back"
    ALIAS_DELETED = "alias_deleted"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    TAGGED = "tagged"
    DELETED = "deleted"
    COLLECTED = "collected"


IDLE = (Kind.REFUSED, Kind.REGISTERED_AGAIN)


@dataclass(frozen=True)
class By:
    """Who asked, as the caller says, and from where."""

    actor: str = ""
    origin: str = ""


NOBODY = By()


@dataclass(frozen=True)
class Entry:
    """One entry. `seq` grows by one each time, whatever clocks say; `version.version` 0: there is none."""

    seq: int
    time_ns: int
    kind: Kind
    version: VersionId
    alias: str = ""
    previous: int = 0
    back: int = 0
    by: By = NOBODY
    detail: str = ""


def write(  # noqa: PLR0913 - an entry has so many facts
    connection: Connection,
    kind: Kind,
    version: VersionId,
    by: By,
    *,
    alias: str = "",
    previous: int = 0,
    back: int = 0,
    detail: str = "",
) -> Entry:
    """Write an entry within the transaction that does what it tells."""
    made = Entry(next_seq(connection), time.time_ns(), kind, version, alias, previous, back, by, _storable(detail))
    connection.execute(journal.insert(), _values(made))
    return made


def _storable(text: str) -> str:
    """What a package says may be quoted in an error: no NUL, no half of a surrogate pair."""
    return text[:MAX_DETAIL].replace("\0", "?").encode("utf-8", "replace").decode()


def forget_idle(connection: Connection) -> None:
    """Delete the oldest entries of what changed nothing, beyond MAX_IDLE."""
    idle = journal.c.kind.in_(IDLE)
    newest = select(journal.c.seq).where(idle).order_by(journal.c.seq.desc()).offset(MAX_IDLE).limit(1)
    last = connection.execute(newest).scalar()
    if last is not None:
        connection.execute(delete(journal).where(idle, journal.c.seq <= last))


def read_since(connection: Connection, seq: int, limit: int, tasks: Collection[str] = ()) -> list[Entry]:
    """At most so many entries after `seq`, oldest first; of these tasks, of all when empty."""
    query = select(journal).where(journal.c.seq > seq).order_by(journal.c.seq).limit(limit)
    if tasks:
        query = query.where(journal.c.task.in_(tasks))
    return [entry(row) for row in connection.execute(query)]


def read_page(connection: Connection, size: int, before: int | None, task: str, alias: str) -> list[Entry]:
    """At most `size` entries before the one with number `before`, newest first."""
    query = select(journal).order_by(journal.c.seq.desc()).limit(size)
    if before is not None:
        query = query.where(journal.c.seq < before)
    if task:
        query = query.where(journal.c.task == task)
    if alias:
        query = query.where(journal.c.alias == alias)
    return [entry(row) for row in connection.execute(query)]


def _values(made: Entry) -> dict[str, Any]:
    return {
        "seq": made.seq,
        "time_ns": made.time_ns,
        "kind": made.kind.value,
        "task": made.version.task,
        "version": made.version.version,
        "content_hash": made.version.content_hash,
        "alias": made.alias,
        "previous": made.previous,
        "back": made.back,
        "actor": made.by.actor,
        "origin": made.by.origin,
        "detail": made.detail,
    }


def entry(row: Row[Any]) -> Entry:
    """A row as an entry."""
    return Entry(
        row.seq,
        row.time_ns,
        Kind(row.kind),
        VersionId(row.task, row.version, row.content_hash),
        row.alias,
        row.previous,
        row.back,
        By(row.actor, row.origin),
        row.detail,
    )
