"""The tables of the first releases, which made them without Alembic: versions and aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "adapter_versions",
        sa.Column("content_hash", sa.String(64), primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("registered_time_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("task", "version"),
    )
    op.create_table(
        "aliases",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("set_time_ns", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["task", "version"], ["adapter_versions.task", "adapter_versions.version"]),
    )
