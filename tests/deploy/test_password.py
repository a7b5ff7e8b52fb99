"""The deployments name the database without its password, and give that to PostgreSQL's own library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url

from lensmount.errors import UnavailableError
from lensmount_server.registry.database import Database
from postgresql import PASSWORD, PostgreSQL, needs_postgresql


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    needs_postgresql()
    with PostgreSQL() as server:
        yield server


@pytest.mark.postgresql
def test_the_password_may_be_in_the_environment(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://lensmount@127.0.0.1:{server.port}/{make_url(server.new_database()).database}"
    monkeypatch.setenv("PGPASSWORD", "another")
    with pytest.raises(UnavailableError) as caught:
        Database(url)
    assert "another" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    Database(url).close()
