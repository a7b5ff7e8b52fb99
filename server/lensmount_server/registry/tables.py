"""The registry's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    event,
)  # fmt: skip

metadata = MetaData()

versions = Table(
    "adapter_versions",
    metadata,
    Column("content_hash", String(64), primary_key=True),
    Column("task", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("manifest", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("registered_time_ns", BigInteger, nullable=False),
    UniqueConstraint("task", "version"),
)

# Lists go from the newest to the oldest, a page at a time.
by_age = Index("adapter_versions_by_age", versions.c.registered_time_ns, versions.c.content_hash)

aliases = Table(
    "aliases",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("set_time_ns", BigInteger, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
)


def open_database(path: Path) -> Engine:
    """Open (or make) the SQLite file with a write-ahead log and full durability."""
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _configure)
    metadata.create_all(engine)
    by_age.create(engine, checkfirst=True)
    return engine


def _configure(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")
