"""The registry's database: SQLite in a file (write-ahead log, full durability), or PostgreSQL by URL.

A transaction that writes holds the one lock of the registry from its first statement on, so
that two writers never build on the same state; those that read never wait.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from lensmount.errors import IncompatibleError, InvalidInputError, MissingExtraError, UnavailableError
from lensmount_server.registry.tables import counter

DRIVERS = {"sqlite": "sqlite", "postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
BUSY_MS = 5000
EXAMPLE = "postgresql+psycopg://lensmount@db.example/lensmount"
# Any number that no other program locks: servers that start together change the tables one after the other.
_MIGRATION_LOCK = 0x6C656E73
_FIRST = "0001"


class Database:
    """Connections for reading and for writing. For any thread."""

    def __init__(self, url: str | URL) -> None:
        """Open the database and bring its tables to this release.

        Raises InvalidInputError for a URL that can not work, UnavailableError, or IncompatibleError for tables of a
        later release.
        """
        self._url = parse_url(url)
        self._engine = _engine(self._url)
        self._readers = self._engine.execution_options(**_one_state(self._url))
        try:
            with self._told():
                self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees one state. Raises UnavailableError."""
        with self._told(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The one transaction that writes now: committed at the end of the block, or nothing of it is there.

        Raises UnavailableError.
        """
        with self._told(), self._engine.connect() as connection:
            writer = connection.execution_options(writes=True)
            with writer.begin():
                writer.execute(select(counter.c.seq).with_for_update())
                yield writer

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            fix = "use shorter text, without NUL characters, and smaller numbers"
            raise InvalidInputError(f"the registry's database: {_why(error)}", field="registry", fix=fix) from error
        except (DBAPIError, PoolTimeoutError) as error:
            raise self._explained(error) from error

    def _explained(self, error: DBAPIError | PoolTimeoutError) -> UnavailableError:
        why = _why(error)
        where = self._url.render_as_string(hide_password=True)
        return UnavailableError(f"the registry's database: {why}", field="registry", value=where, fix=_fix(why))

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            writer = connection.execution_options(writes=True)
            with writer.begin():
                if writer.dialect.name == "postgresql":
                    writer.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
                now = MigrationContext.configure(writer).get_current_revision()
                if now not in {None, *_releases()}:
                    raise self._later(str(now))
                if now != _releases()[0]:
                    _upgrade(writer)

    def _later(self, now: str) -> IncompatibleError:
        fix = "use the release that wrote it, or a later one"
        where = self._url.render_as_string(hide_password=True)
        message = f"the registry's tables (step {now}) are of a later release"
        return IncompatibleError(message, field="registry", value=where, fix=fix)


@cache
def _releases() -> tuple[str, ...]:
    """The steps of `migrations`, the last one first."""
    return tuple(each.revision for each in ScriptDirectory.from_config(_alembic(None)).walk_revisions())


def next_seq(connection: Connection) -> int:
    """The next number of the journal; for a connection that writes."""
    return int(connection.execute(update(counter).values(seq=counter.c.seq + 1).returning(counter.c.seq)).scalar_one())


def sqlite_url(path: Path) -> URL:
    """The URL of a file, whatever is in its name."""
    return URL.create("sqlite", database=str(path))


def _upgrade(connection: Connection) -> None:
    config = _alembic(connection)
    tables = inspect(connection).get_table_names()
    if "adapter_versions" in tables and "alembic_version" not in tables:
        command.stamp(config, _FIRST)  # a release before Alembic made them
    command.upgrade(config, "head")


def _alembic(connection: Connection | None) -> Config:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def parse_url(url: str | URL) -> URL:
    """The URL with the driver that is used here; raises InvalidInputError.

    No error shows more of it than its scheme: it may hold a password.
    """
    try:
        parsed = make_url(url)
        driver = DRIVERS.get(parsed.drivername, parsed.drivername)
    except (ArgumentError, ValueError):
        raise _no_url("not a database URL", "") from None
    if driver not in DRIVERS.values():
        raise _no_url("SQLite or PostgreSQL expected", driver)
    if driver == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise _no_url("a file expected", driver)
    return parsed.set(drivername=driver)


def _no_url(message: str, value: str) -> InvalidInputError:
    fix = f"give {EXAMPLE}, or nothing for a file in the data directory"
    return InvalidInputError(message, field="registry", value=value, fix=fix)


def _engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, **_options(url))
    except ModuleNotFoundError as error:
        fix = "pip install 'lensmount[postgresql]'"
        raise MissingExtraError(f"the driver {error.name} is not installed", field="registry", fix=fix) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _options(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {}
    limits = f"-c lock_timeout={BUSY_MS} -c idle_in_transaction_session_timeout=60000"
    # A server that is gone without a word is noticed within ten seconds, not when TCP gives up.
    alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
    arguments = {"connect_timeout": 5, "options": limits, "application_name": "lensmount", **alive}
    return {"pool_pre_ping": True, "connect_args": arguments, "isolation_level": "READ COMMITTED"}


def _one_state(url: URL) -> dict[str, Any]:
    return {} if url.get_backend_name() == "sqlite" else {"isolation_level": "REPEATABLE READ"}


def _configure_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` says BEGIN; Python's own idea of when would be too late
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on: SQLite does not wait for others that do so at once, whatever the busy timeout."""
    last = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > last:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _why(error: DBAPIError | PoolTimeoutError) -> str:
    return str(error.orig if isinstance(error, DBAPIError) else error).strip().split("\n")[0]


def _fix(why: str) -> str:
    if "locked" in why or "lock timeout" in why:
        return "call again; if it stays so, look which other program holds the database"
    if "full" in why:
        return "make room on the disk, and call again"
    if "readonly" in why or "read-only" in why or "unable to open" in why:
        return "give --data-dir a folder that you may write"
    if "malformed" in why or "not a database" in why:
        return "put back a copy of registry.sqlite, or give --data-dir another folder"
    return "look whether the database is there and takes connections, and call again"
