"""Which versions may go, and how their rows do. Packages are removed after their rows, by the registry."""

from __future__ import annotations

import time
from collections.abc import Collection
from itertools import islice

from sqlalchemy import Connection, delete, select, update

from lensmount.errors import IncompatibleError, NotFoundError
from lensmount_server.registry import journal
from lensmount_server.registry.aliases import history
from lensmount_server.registry.journal import By, Kind
from lensmount_server.registry.packages import drop
from lensmount_server.registry.records import Number, Record, read_numbers
from lensmount_server.registry.tables import ALIVE, aliases, tags, versions

# A rollback of an alias finds at least so many of its earlier versions.
BACK = 5


def remove_version(connection: Connection, record: Record, by: By, kind: Kind, detail: str = "") -> None:
    """Take a version away: its row stays, for its number, and its package waits to be removed."""
    task, version = record.id.task, record.id.version
    connection.execute(delete(tags).where(tags.c.task == task, tags.c.version == version))
    gone = update(versions).where(versions.c.task == task, versions.c.version == version)
    connection.execute(gone.values(deleted_time_ns=time.time_ns()))
    drop(connection, record.blob)
    journal.write(connection, kind, record.id, by, detail=detail)


def check_free(record: Record) -> None:
    """Raise IncompatibleError for a version that an alias points at or somebody pinned."""
    where = f"{record.id.task}:{record.id.version}"
    if record.pin_reason is not None:
        message, fix = f"it is pinned ({record.pin_reason or 'no reason given'})", f"lensmount adapters unpin {where}"
    elif record.aliases:
        message = f"{', '.join(record.aliases)} points at it"
        fix = f"promote another version first, or delete the task: lensmount adapters delete {record.id.task}"
    else:
        return
    raise IncompatibleError(message, field="version", value=where, fix=fix)


def versions_of(connection: Connection, task: str) -> list[Record]:
    """All versions of a task, oldest first; raises NotFoundError when there is none."""
    query = select(versions.c.version).where(versions.c.task == task, ALIVE).order_by(versions.c.version)
    found = read_numbers(connection, [(task, version) for version in connection.execute(query).scalars()])
    if not found:
        fix = "list what there is with `lensmount adapters list`"
        raise NotFoundError("no such task", field="task", value=task, fix=fix)
    return found


def superfluous(
    connection: Connection, task: str, keep: int, used: Collection[Number], limit: int | None = None
) -> list[Record]:
    """Versions, of one task or of all (""), that nothing needs, oldest first, at most `limit`.

    Not among them: the newest `keep` of each task, what is pinned, what an alias points at, the last BACK versions
    that it would be rolled back to, and what is `used`.
    """
    query = select(versions.c.task, versions.c.version, versions.c.pinned).where(ALIVE)
    if task:
        query = query.where(versions.c.task == task)
    numbers: dict[str, list[int]] = {}
    pinned: set[Number] = set()
    for name, version, is_pinned in connection.execute(query.order_by(versions.c.task, versions.c.version)):
        numbers.setdefault(name, []).append(version)
        pinned |= {(name, version)} if is_pinned else set()
    needed = pinned | set(used) | _reachable(connection)
    older = [(name, version) for name, each in numbers.items() for version in each[: max(0, len(each) - keep)]]
    return read_numbers(connection, [number for number in older if number not in needed][:limit])


def _reachable(connection: Connection) -> set[Number]:
    """What aliases point at, and the last BACK others that they would be rolled back to."""
    pointed = {(row.task, row.alias): row.version for row in connection.execute(select(aliases))}
    reached = {(task, version) for (task, _), version in pointed.items()}
    for (task, alias), entries in history(connection).items():
        others = dict.fromkeys(entry.version.version for entry in entries)
        others.pop(pointed[task, alias], None)
        reached |= {(task, version) for version in islice(others, BACK)}
    return reached
