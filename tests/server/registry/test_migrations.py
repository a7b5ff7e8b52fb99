"""Registries of earlier releases open with all they had, and those of later ones are refused."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from ledger import check_whole
from lensmount.errors import IncompatibleError
from lensmount_server.registry import Kind, Places, Registry
from lensmount_server.registry.database import Database, sqlite_url
from lensmount_server.registry.tables import metadata
from old_registry import ALIASES, CARDS, FIRST, old_directory
from registries import Shelf, add, opened, points


def test_a_registry_of_the_first_release_opens_with_all_it_had(tmp_path: Path, shelf: Shelf) -> None:
    old_directory(tmp_path, shelf)
    for _ in range(2):
        with opened(tmp_path) as registry:
            check_whole(registry, Places(blobs=str(tmp_path / "blobs")))
            assert points(registry) == ALIASES
            for (task, version), card in CARDS.items():
                record, package = registry.get(task, version), shelf.package(card, task)[0]
                assert record.id.content_hash == package.content_hash
                assert (record.manifest, record.size_bytes) == (package.manifest, package.size_bytes)
                assert registry.read(record.id).content_hash == package.content_hash
            assert [record.registered_time_ns for record in registry.page(9)] == [1002, 1001, 1000]
            entries = registry.since(0, 99)
            assert [entry.kind for entry in entries] == [Kind.REGISTERED] * 3 + [Kind.ALIAS_SET] * 3
            assert {entry.detail for entry in entries} == {"before there was a journal"}
            assert registry.page(9)[0].states[0].set_time_ns == 2002


def test_what_was_taken_over_can_be_worked_with(tmp_path: Path, shelf: Shelf) -> None:
    old_directory(tmp_path, shelf)
    with opened(tmp_path) as registry:
        assert not add(registry, shelf, "a")[1]
        assert add(registry, shelf, "d")[0].id.version == 3
        registry.set_alias("defect", "live", 3)
        target, expected = registry.rollback_target("defect", "live")
        assert registry.roll_back(target, "live", expected).version.version == 2
        registry.delete_alias("surface", "live")
        registry.delete("surface", 1)
        check_whole(registry, Places(blobs=str(tmp_path / "blobs")))


def test_an_empty_registry_of_the_first_release_opens(tmp_path: Path, shelf: Shelf) -> None:
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as database:
        database.executescript(FIRST)
    with opened(tmp_path) as registry:
        assert add(registry, shelf, "a")[0].id.version == 1


def test_a_registry_of_a_later_release_is_refused_and_left_alone(
    new_places: Callable[[], Places], tmp_path: Path, shelf: Shelf
) -> None:
    places = new_places()
    with opened(tmp_path / "data", places) as registry:
        add(registry, shelf, "a")
    engine = create_engine(places.database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for _ in range(2):
        with pytest.raises(IncompatibleError, match="9999") as caught:
            Registry(tmp_path / "data", places)
        assert caught.value.field == "registry"
        assert "later" in caught.value.fix
        assert "pass" not in str(caught.value)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()
    with opened(tmp_path / "data", places) as registry:
        assert registry.get("defect", 1)


def test_migrations_make_the_tables_that_are_used(new_places: Callable[[], Places], tmp_path: Path) -> None:
    places = new_places()
    Registry(tmp_path / "data", places).close()
    engine = create_engine(places.database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_servers_that_start_together_make_the_tables_once(
    new_places: Callable[[], Places], tmp_path: Path, shelf: Shelf
) -> None:
    places = new_places()
    started: list[Registry] = []

    def start(number: int) -> None:
        started.append(Registry(tmp_path / f"server-{number}", places))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 6
    assert [add(registry, shelf, str(number))[0].id.version for number, registry in enumerate(started)] == [
        *range(1, 7)
    ]
    for registry in started:
        registry.close()


def test_a_server_that_starts_waits_for_one_that_makes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "registry.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(file, timeout=60)) as control, pytest.raises(sqlite3.OperationalError):
            control.execute("PRAGMA journal_mode=WAL")  # SQLite itself does not wait here
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(lambda: Database(sqlite_url(file)).close())
            assert wait([starting], timeout=0.2).not_done
            other.execute("COMMIT")
            starting.result(10)
    with closing(sqlite3.connect(file)) as done:
        assert done.execute("PRAGMA journal_mode").fetchone() == ("wal",)
