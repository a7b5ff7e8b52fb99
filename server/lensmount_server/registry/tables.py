"""The registry's tables, as they are after the last of `migrations`.

Every change is one transaction that takes the next number of the journal first: whoever
writes waits for whoever wrote before, and numbers become visible in their order.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)  # fmt: skip

metadata = MetaData()

# A deleted version keeps its row: its number must never mean anything else.
versions = Table(
    "adapter_versions",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("content_hash", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("manifest", Text, nullable=False),
    Column("backbone_fingerprint", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("registered_time_ns", BigInteger, nullable=False),
    Column("registered_by", String(200), nullable=False),
    Column("origin", String(200), nullable=False),
    Column("blob", String(96), nullable=False),
    Column("search", Text, nullable=False),
    Column("pinned", Integer, nullable=False),
    Column("pin_reason", String(200), nullable=False),
    Column("deleted_time_ns", BigInteger),
)

ALIVE = versions.c.deleted_time_ns.is_(None)
one_of_a_kind = Index(
    "adapter_versions_content", versions.c.content_hash, unique=True, sqlite_where=ALIVE, postgresql_where=ALIVE
)
by_task = Index("adapter_versions_by_task", versions.c.task, versions.c.seq)

tags = Table(
    "tags",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("key", String(64), primary_key=True),
    Column("value", String(200), nullable=False),
    Column("search", Text, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
)

# `seq` is the entry of the journal that set it: what it pointed at before hangs on that.
aliases = Table(
    "aliases",
    metadata,
    Column("task", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("set_time_ns", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
)
by_version = Index("aliases_by_version", aliases.c.task, aliases.c.version)

# `back` of an entry that set an alias is the entry that a rollback goes back to; 0: none.
journal = Table(
    "journal",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("task", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("previous", Integer, nullable=False),
    Column("back", BigInteger, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("origin", String(200), nullable=False),
    Column("detail", Text, nullable=False),
)
journal_of_a_task = Index("journal_by_task", journal.c.task, journal.c.seq)
journal_by_kind = Index("journal_by_kind", journal.c.kind, journal.c.seq)

# What was begun with packages: a crash leaves a row here, and the next start finishes it.
blobs = Table(
    "blobs",
    metadata,
    Column("key", String(96), primary_key=True),
    Column("state", String(10), nullable=False),
    Column("server", String(64), nullable=False),
    Column("time_ns", BigInteger, nullable=False),
)

servers = Table(
    "servers",
    metadata,
    Column("server", String(64), primary_key=True),
    Column("beat_time_ns", BigInteger, nullable=False),
)

# Versions that open streams and sources of a server ask for by number.
uses = Table(
    "uses",
    metadata,
    Column("server", String(64), primary_key=True),
    Column("task", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
)

counter = Table("counter", metadata, Column("id", Integer, primary_key=True), Column("seq", BigInteger, nullable=False))
