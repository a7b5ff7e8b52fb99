"""A data directory as the first releases left it, which made their tables without Alembic."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from registries import Shelf

# As the release before Alembic made its tables.
FIRST = """
CREATE TABLE adapter_versions (
    content_hash VARCHAR(64) NOT NULL, task VARCHAR(64) NOT NULL, version INTEGER NOT NULL, manifest VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL, registered_time_ns BIGINT NOT NULL, PRIMARY KEY (content_hash), UNIQUE (task, version)
);
CREATE TABLE aliases (
    task VARCHAR(64) NOT NULL, alias VARCHAR(64) NOT NULL, version INTEGER NOT NULL, set_time_ns BIGINT NOT NULL,
    PRIMARY KEY (task, alias), FOREIGN KEY(task, version) REFERENCES adapter_versions (task, version)
);
CREATE INDEX adapter_versions_by_age ON adapter_versions (registered_time_ns, content_hash);
"""
CARDS = {("defect", 1): "a", ("defect", 2): "b", ("surface", 1): "c"}
ALIASES = {("defect", "live"): 2, ("defect", "canary"): 1, ("surface", "live"): 1}


def old_directory(directory: Path, shelf: Shelf) -> None:
    """A data directory as that release left it."""
    (directory / "staging").mkdir(parents=True)
    (directory / "lock").write_text("")
    with closing(sqlite3.connect(directory / "registry.sqlite")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(FIRST)
        for when, ((task, version), card) in enumerate(CARDS.items(), 1000):
            package, folder = shelf.package(card, task)
            shutil.copytree(folder, directory / "blobs" / package.content_hash)
            row = (package.content_hash, task, version, package.manifest.model_dump_json(), package.size_bytes, when)
            database.execute("INSERT INTO adapter_versions VALUES (?, ?, ?, ?, ?, ?)", row)
        rows = [(task, alias, version, 2000 + place) for place, ((task, alias), version) in enumerate(ALIASES.items())]
        database.executemany("INSERT INTO aliases VALUES (?, ?, ?, ?)", rows)
