"""A registry on SQLite and on PostgreSQL: whatever is asked of one is asked of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lensmount_server.registry import Places, Registry
from postgresql import PostgreSQL, needs_postgresql
from registries import Shelf, opened

SQLITE = "sqlite"
POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    needs_postgresql()
    with PostgreSQL() as server:
        yield server


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def new_places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Places]:
    """Makes an empty registry that several servers may share, each time another one."""
    count = iter(range(10_000))

    def on_sqlite() -> Places:
        folder = tmp_path / f"shared-{next(count)}"
        folder.mkdir()
        return Places(f"sqlite:///{folder / 'registry.sqlite'}", str(folder / "blobs"))

    def on_postgresql() -> Places:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        return Places(server.new_database(), str(tmp_path / f"blobs-{next(count)}"))

    return on_sqlite if request.param == SQLITE else on_postgresql


@pytest.fixture
def places(new_places: Callable[[], Places]) -> Places:
    return new_places()


@pytest.fixture
def registry(tmp_path: Path, places: Places) -> Iterator[Registry]:
    with opened(tmp_path / "data", places) as registry:
        yield registry


@pytest.fixture
def other(tmp_path: Path, places: Places) -> Iterator[Registry]:
    """A second server on the same registry."""
    with opened(tmp_path / "other", places) as registry:
        yield registry
