"""What aliases point at, and how that changes: set, roll back, delete.

Each entry of the journal that sets an alias knows the entry that a rollback goes back to.
After a promotion that is the entry that was replaced; after a rollback it is what the entry
that is restored went back to: rolling back twice goes back two versions, not to and fro.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, literal, select, true, update

from lensmount.errors import ConflictError, NotFoundError
from lensmount_server.frames import VersionId
from lensmount_server.registry import journal, tables
from lensmount_server.registry.journal import By, Entry, Kind
from lensmount_server.registry.records import no_alias, read_alias, read_identity
from lensmount_server.registry.tables import ALIVE, aliases, versions

# How far a rollback looks back for a version.
MAX_BACK = 10_000
EVERY = true()


@dataclass(frozen=True)
class Expected:
    """What a caller believes of an alias; None where it does not care. Version 0 and etag "0": that it is not there."""

    version: int | None = None
    etag: str | None = None


@dataclass(frozen=True)
class Change:
    """An alias as it is now: set by `seq`; `previous` is what it pointed at before, 0 for nothing."""

    version: VersionId
    alias: str
    previous: int
    seq: int

    @property
    def etag(self) -> str:
        """What the next change may name."""
        return str(self.seq)


def set_alias(
    connection: Connection,
    task: str,
    alias: str,
    version: int,
    expected: Expected,
    by: By,
    restored: Entry | None = None,
) -> Change:
    """Point an alias at a version; back at it, where `restored` is the entry that is rolled back to.

    An alias that points there already stays as it is, its etag too. Raises NotFoundError, or ConflictError where the
    alias is not what is `expected`.
    """
    identity = read_identity(connection, task, version)
    now = read_alias(connection, task, alias)
    previous, seq = (now.version, now.seq) if now is not None else (0, 0)
    _check(task, alias, previous, seq, expected)
    if previous == version:
        return Change(identity, alias, previous, seq)
    kind, back = (Kind.ROLLED_BACK, restored.back) if restored is not None else (Kind.ALIAS_SET, seq)
    entry = journal.write(connection, kind, identity, by, alias=alias, previous=previous, back=back)
    values = {"version": version, "set_time_ns": time.time_ns(), "seq": entry.seq}
    if now is None:
        connection.execute(aliases.insert(), {"task": task, "alias": alias, **values})
    else:
        connection.execute(update(aliases).where(aliases.c.task == task, aliases.c.alias == alias).values(values))
    return Change(identity, alias, previous, entry.seq)


def delete_alias(connection: Connection, task: str, alias: str, expected: Expected, by: By) -> None:
    """Take an alias away. Raises NotFoundError or ConflictError."""
    now = read_alias(connection, task, alias)
    if now is None:
        raise no_alias(task, alias)
    _check(task, alias, now.version, now.seq, expected)
    connection.execute(delete(aliases).where(aliases.c.task == task, aliases.c.alias == alias))
    nothing = VersionId(task, 0, "")
    journal.write(connection, Kind.ALIAS_DELETED, nothing, by, alias=alias, previous=now.version)


def rollback_target(
    connection: Connection, task: str, alias: str, version: int | None, etag: str | None = None
) -> tuple[Entry, Expected]:
    """The entry that a rollback goes back to, the last before or the last of `version`, and the alias as it is now.

    Versions that were deleted are passed over. Raises NotFoundError, or ConflictError for another `etag` than it has.
    """
    now = read_alias(connection, task, alias)
    if now is None:
        raise no_alias(task, alias)
    _check(task, alias, now.version, now.seq, Expected(etag=etag))
    mine = (aliases.c.task == task) & (aliases.c.alias == alias)
    for entry in history(connection, mine).get((task, alias), ()):
        if entry.version.version != now.version and version in {None, entry.version.version}:
            return entry, Expected(etag=str(now.seq))
    raise _nowhere(task, alias, version)


def history(connection: Connection, which: ColumnElement[bool] = EVERY) -> dict[tuple[str, str], list[Entry]]:
    """By task and alias: what the alias would go back to, step by step, as far as that was not deleted."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for row in connection.execute(_walk(which)):
        found.setdefault((row.task, row.of_alias), []).append(journal.entry(row))
    return found


def _walk(which: ColumnElement[bool]) -> Select[Any]:
    """Entries of the journal from those that set aliases backwards, in one query whatever the number of aliases."""
    entry = tables.journal
    first = select(aliases.c.alias.label("of_alias"), entry.c.back.label("at"), literal(1).label("step"))
    steps = first.join_from(aliases, entry, entry.c.seq == aliases.c.seq).where(which).cte("steps", recursive=True)
    further = select(steps.c.of_alias, entry.c.back, steps.c.step + 1).join_from(
        steps, entry, entry.c.seq == steps.c.at
    )
    steps = steps.union_all(further.where(steps.c.step < MAX_BACK))
    there = (versions.c.task == entry.c.task) & (versions.c.version == entry.c.version) & ALIVE
    every = select(steps.c.of_alias, entry).join_from(steps, entry, entry.c.seq == steps.c.at).join(versions, there)
    return every.order_by(steps.c.step)


def _check(task: str, alias: str, version: int, seq: int, expected: Expected) -> None:
    fix = f"look with `lensmount adapters show {task}@{alias}` and decide again"
    if expected.version is not None and expected.version != version:
        message = f"{task}@{alias} points at version {version} by now"
        raise ConflictError(message, field="expected_version", value=expected.version, fix=fix)
    if expected.etag is not None and expected.etag != str(seq):
        message = f"somebody else changed {task}@{alias}: it points at version {version}, its etag is {seq}"
        raise ConflictError(message, field="etag", value=expected.etag, fix=fix)


def _nowhere(task: str, alias: str, version: int | None) -> NotFoundError:
    if version is None:
        message, value = "there is no earlier version to go back to", f"{task}@{alias}"
    else:
        message, value = f"{task}@{alias} never pointed at this version", f"{task}:{version}"
    fix = f"`lensmount adapters history {task}` shows where it pointed; `lensmount promote` points it anywhere"
    return NotFoundError(message, field="version" if version else "alias", value=value, fix=fix)
