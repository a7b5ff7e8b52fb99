"""Journal, tags, pins, deletion, packages outside of the data directory, several servers.

What was registered and promoted before becomes the first entries of the journal.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

UNKNOWN = {"actor": "", "origin": "", "detail": "before there was a journal", "previous": 0, "back": 0}


def upgrade() -> None:
    """Take the rows out, make the tables anew, and put the rows back."""
    connection = op.get_bind()
    old_versions = _rows(connection, "SELECT * FROM adapter_versions ORDER BY registered_time_ns, content_hash")
    old_aliases = _rows(connection, "SELECT * FROM aliases ORDER BY set_time_ns, task, alias")
    op.drop_table("aliases")
    op.drop_table("adapter_versions")
    tables = _make()
    hashes = {(row["task"], row["version"]): row["content_hash"] for row in old_versions}
    for seq, row in enumerate(old_versions, 1):
        entry = _entry(row, seq, "registered", row["registered_time_ns"], hashes)
        connection.execute(tables["adapter_versions"].insert(), _version(row, seq))
        connection.execute(tables["blobs"].insert(), _blob(row))
        connection.execute(tables["journal"].insert(), entry)
    for seq, row in enumerate(old_aliases, len(old_versions) + 1):
        entry = _entry(row, seq, "alias_set", row["set_time_ns"], hashes)
        connection.execute(tables["aliases"].insert(), {**row, "seq": seq})
        connection.execute(tables["journal"].insert(), entry)
    last = len(old_versions) + len(old_aliases)
    connection.execute(tables["counter"].insert(), {"id": 1, "seq": last})


def _rows(connection: sa.Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(sa.text(query)).mappings()]


def _version(row: dict[str, Any], seq: int) -> dict[str, Any]:
    manifest = json.loads(row["manifest"])
    search = "\n".join([manifest["task"], manifest["strategy"], *manifest["labels"]]).casefold()
    kept = ("task", "version", "content_hash", "manifest", "size_bytes", "registered_time_ns")
    return {
        **{name: row[name] for name in kept},
        "seq": seq,
        "backbone_fingerprint": manifest["backbone"]["fingerprint"],
        "registered_by": "",
        "origin": "",
        "blob": row["content_hash"],
        "search": search,
        "pinned": 0,
        "pin_reason": "",
    }


def _blob(row: dict[str, Any]) -> dict[str, Any]:
    return {"key": row["content_hash"], "state": "kept", "server": "", "time_ns": row["registered_time_ns"]}


def _entry(
    row: dict[str, Any], seq: int, kind: str, time_ns: int, hashes: dict[tuple[str, int], str]
) -> dict[str, Any]:
    number = (row["task"], row["version"])
    what = {"task": row["task"], "version": row["version"], "content_hash": hashes[number]}
    return {"seq": seq, "time_ns": time_ns, "kind": kind, "alias": row.get("alias", ""), **what, **UNKNOWN}


def _make() -> dict[str, sa.Table]:
    made = [
        op.create_table(
            "adapter_versions",
            sa.Column("task", sa.String(64), primary_key=True),
            sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("content_hash", sa.String(64), nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
            sa.Column("manifest", sa.Text, nullable=False),
            sa.Column("backbone_fingerprint", sa.String(64), nullable=False),
            sa.Column("size_bytes", sa.BigInteger, nullable=False),
            sa.Column("registered_time_ns", sa.BigInteger, nullable=False),
            sa.Column("registered_by", sa.String(200), nullable=False),
            sa.Column("origin", sa.String(200), nullable=False),
            sa.Column("blob", sa.String(96), nullable=False),
            sa.Column("search", sa.Text, nullable=False),
            sa.Column("pinned", sa.Integer, nullable=False),
            sa.Column("pin_reason", sa.String(200), nullable=False),
            sa.Column("deleted_time_ns", sa.BigInteger),
        ),
        op.create_table(
            "tags",
            sa.Column("task", sa.String(64), primary_key=True),
            sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("key", sa.String(64), primary_key=True),
            sa.Column("value", sa.String(200), nullable=False),
            sa.Column("search", sa.Text, nullable=False),
            sa.ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
        ),
        op.create_table(
            "aliases",
            sa.Column("task", sa.String(64), primary_key=True),
            sa.Column("alias", sa.String(64), primary_key=True),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("set_time_ns", sa.BigInteger, nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
            sa.ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
        ),
        op.create_table(
            "journal",
            sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("time_ns", sa.BigInteger, nullable=False),
            sa.Column("kind", sa.String(20), nullable=False),
            sa.Column("task", sa.String(64), nullable=False),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("content_hash", sa.String(64), nullable=False),
            sa.Column("alias", sa.String(64), nullable=False),
            sa.Column("previous", sa.Integer, nullable=False),
            sa.Column("back", sa.BigInteger, nullable=False),
            sa.Column("actor", sa.String(200), nullable=False),
            sa.Column("origin", sa.String(200), nullable=False),
            sa.Column("detail", sa.Text, nullable=False),
        ),
        op.create_table(
            "blobs",
            sa.Column("key", sa.String(96), primary_key=True),
            sa.Column("state", sa.String(10), nullable=False),
            sa.Column("server", sa.String(64), nullable=False),
            sa.Column("time_ns", sa.BigInteger, nullable=False),
        ),
        op.create_table(
            "servers",
            sa.Column("server", sa.String(64), primary_key=True),
            sa.Column("beat_time_ns", sa.BigInteger, nullable=False),
        ),
        op.create_table(
            "uses",
            sa.Column("server", sa.String(64), primary_key=True),
            sa.Column("task", sa.String(64), primary_key=True),
            sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        ),
        op.create_table(
            "counter", sa.Column("id", sa.Integer, primary_key=True), sa.Column("seq", sa.BigInteger, nullable=False)
        ),
    ]
    alive = sa.text("deleted_time_ns IS NULL")
    op.create_index(
        "adapter_versions_content",
        "adapter_versions",
        ["content_hash"],
        unique=True,
        sqlite_where=alive,
        postgresql_where=alive,
    )
    op.create_index("adapter_versions_by_task", "adapter_versions", ["task", "seq"])
    op.create_index("aliases_by_version", "aliases", ["task", "version"])
    op.create_index("journal_by_task", "journal", ["task", "seq"])
    op.create_index("journal_by_kind", "journal", ["kind", "seq"])
    return {table.name: table for table in made}
