"""Which versions each server on a registry needs, so that no other one collects them.

A server tells of the versions that its streams and sources ask for by number, and that it
is alive; what aliases point at is known anyway. One that has not been heard of for an hour
is taken for dead.
"""

from __future__ import annotations

import time

from sqlalchemy import ColumnElement, Connection, delete, select

from lensmount_server.registry.records import Number
from lensmount_server.registry.tables import servers, uses

DEAD_NS = 3600 * 10**9


def beat(connection: Connection, server: str) -> None:
    """Note that a server is alive."""
    connection.execute(delete(servers).where(servers.c.server == server))
    connection.execute(servers.insert(), {"server": server, "beat_time_ns": time.time_ns()})


def use(connection: Connection, server: str, number: Number) -> None:
    """Note that a server needs a version."""
    task, version = number
    unuse(connection, server, number)
    connection.execute(uses.insert(), {"server": server, "task": task, "version": version})


def unuse(connection: Connection, server: str, number: Number) -> None:
    """Note that it does not any more."""
    task, version = number
    connection.execute(delete(uses).where(uses.c.server == server, uses.c.task == task, uses.c.version == version))


def forget(connection: Connection, server: str) -> None:
    """A server stopped, or begins anew."""
    connection.execute(delete(uses).where(uses.c.server == server))


def used(connection: Connection) -> set[Number]:
    """What servers that are alive need."""
    query = select(uses.c.task, uses.c.version).where(uses.c.server.in_(select(servers.c.server).where(_alive())))
    return {(task, version) for task, version in connection.execute(query)}


def living(connection: Connection) -> set[str]:
    """The servers that are alive."""
    return set(connection.execute(select(servers.c.server).where(_alive())).scalars())


def _alive() -> ColumnElement[bool]:
    return servers.c.beat_time_ns > time.time_ns() - DEAD_NS
