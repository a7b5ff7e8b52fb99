"""A PostgreSQL that stops, crashes, breaks connections off or refuses them: told, and then on without a restart."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ledger import check_whole
from lensmount.errors import InvalidInputError, MissingExtraError, UnavailableError
from lensmount_server.registry import Filter, Places, Registry, database
from postgresql import PASSWORD, PostgreSQL, needs_postgresql
from registries import Shelf, add, add_all, opened, points, refusal

pytestmark = pytest.mark.postgresql

PATIENCE_S = 60.0
WRONG = "wr0ng-s3cret"


@pytest.fixture(scope="module")
def own() -> Iterator[PostgreSQL]:
    """A server that may be stopped."""
    needs_postgresql()
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def places(own: PostgreSQL, tmp_path: Path) -> Places:
    return Places(own.new_database(), str(tmp_path / "blobs"))


def told(error: UnavailableError) -> None:
    """What is said names the field, the place and the fix, and no password."""
    assert error.field == "registry"
    assert "127.0.0.1" in error.value
    assert "***" in error.value
    assert error.fix
    assert PASSWORD not in str(error)
    assert "pass%40word" not in str(error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_server_that_is_away_is_told_and_found_again(
    own: PostgreSQL, registry: Registry, places: Places, shelf: Shelf, number: int
) -> None:
    identity, *_ = add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 1)
    own.stop(number)
    try:
        for work in (
            lambda: registry.set_alias("defect", "live", 2),
            lambda: add(registry, shelf, "new"),
            lambda: registry.delete("defect", 3),
            lambda: registry.collect(0),
            lambda: registry.since(0, 10),
            lambda: registry.resolve("defect", "live"),
            lambda: registry.read(identity),
            registry.beat,
        ):
            for _ in range(2):
                with pytest.raises(UnavailableError) as caught:
                    work()
                told(caught.value)
    finally:
        own.start()
    assert points(registry) == {("defect", "live"): 1}
    assert add(registry, shelf, "new")[1]
    registry.set_alias("defect", "live", 4)
    check_whole(registry, places)


def test_a_server_that_is_not_there_at_the_start_is_told(own: PostgreSQL, places: Places, tmp_path: Path) -> None:
    own.stop()
    try:
        with pytest.raises(UnavailableError) as caught:
            Registry(tmp_path / "data", places)
        told(caught.value)
    finally:
        own.start()
    Registry(tmp_path / "data", places).close()


@pytest.mark.parametrize("turn", range(6))
def test_a_connection_that_is_broken_off_in_a_transaction_leaves_nothing(
    own: PostgreSQL, registry: Registry, places: Places, shelf: Shelf, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(registry, shelf, 3)
    registry.set_alias("defect", "live", 1)
    before = check_whole(registry, places)
    next_seq = database.next_seq
    broken: list[int] = []

    def break_off(connection: object) -> int:
        seq = next_seq(connection)  # type: ignore[arg-type]
        if not broken:
            broken.append(seq)
            name = places.database.rpartition("/")[2]
            own.break_off(name)
        return seq

    monkeypatch.setattr("lensmount_server.registry.journal.next_seq", break_off)
    work: Callable[[], object] = [
        lambda: registry.set_alias("defect", "live", 2),
        lambda: add(registry, shelf, "new"),
        lambda: registry.delete("defect", 3),
        lambda: registry.delete_task("defect"),
        lambda: registry.collect(0),
        lambda: registry.tag("defect", 1, {"a": "b"}, ()),
    ][turn]
    refused = refusal(work)
    assert refused is not None
    told(refused)
    assert check_whole(registry, places) == before
    work()
    check_whole(registry, places)


def test_what_is_promoted_while_it_crashes_again_and_again_is_there_or_not(
    own: PostgreSQL, registry: Registry, places: Places, shelf: Shelf
) -> None:
    add_all(registry, shelf, 3)
    acknowledged: list[int] = []
    ended = threading.Event()

    def promote_to(version: int) -> None:
        acknowledged.append(registry.set_alias("defect", "live", version).seq)

    def promote() -> None:
        version = 0
        while not ended.is_set():
            version = version % 3 + 1
            refused = refusal(partial(promote_to, version))
            if refused is not None:
                told(refused)

    worker = threading.Thread(target=promote)
    worker.start()
    try:
        for _ in range(4):
            time.sleep(0.2)
            own.stop(signal.SIGQUIT)
            own.start()
    finally:
        ended.set()
        worker.join(PATIENCE_S)
    assert len(acknowledged) > 10
    assert set(acknowledged) <= {entry.seq for entry in registry.since(0, 100_000)} | {4}
    check_whole(registry, places)


def test_another_that_holds_the_lock_is_waited_for_and_then_told(
    own: PostgreSQL, places: Places, tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 100)
    with opened(tmp_path / "one", places) as one, opened(tmp_path / "two", places) as two:
        add_all(one, shelf, 2)
        with one._database.writing():
            with pytest.raises(UnavailableError, match="lock timeout") as caught:
                two.set_alias("defect", "live", 1)
            told(caught.value)
            assert "other program holds" in caught.value.fix
            assert two.get("defect", 1)  # whoever reads does not wait
        two.set_alias("defect", "live", 1)


@pytest.mark.parametrize("part", ["password", "database", "port"])
def test_a_url_that_is_wrong_shows_no_password(own: PostgreSQL, tmp_path: Path, part: str) -> None:
    url = {
        "password": own.url(password=WRONG),
        "database": own.url("nowhere"),
        "port": own.url().replace(f":{own.port}/", ":1/"),
    }[part]
    with pytest.raises(UnavailableError) as caught:
        Registry(tmp_path / "data", Places(url))
    told(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert WRONG not in str(error)
        assert PASSWORD not in str(error)
        error = error.__cause__ or error.__context__


def test_a_trace_of_it_shows_no_password(own: PostgreSQL, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lensmount_server.registry import Places, Registry;"
        "Registry(Path(sys.argv[1]), Places(sys.argv[2]))"
    )
    url = own.url(password=WRONG)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), url], capture_output=True, text=True)
    assert done.returncode == 1
    assert "UnavailableError" in done.stderr
    assert "s3cret" not in done.stderr


def test_what_it_can_not_hold_is_the_callers_mistake(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 1)
    for work in (
        lambda: registry.tag("defect", 1, {"line": "\0"}, ()),
        lambda: registry.pin("defect", 1, "x" * 201),
        lambda: registry.page(9, None, Filter(query="\0")),
        lambda: registry.page(9, None, Filter(task="\0")),
    ):
        with pytest.raises(InvalidInputError, match=r"NUL|too long") as caught:
            work()
        assert caught.value.field == "registry"
        assert "shorter text, without NUL" in caught.value.fix
    assert registry.get("defect", 1).pin_reason is None


def test_without_its_driver_the_fix_is_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match="psycopg") as caught:
        Registry(tmp_path, Places("postgresql://lensmount:s3cret@host/db"))
    assert caught.value.field == "registry"
    assert caught.value.fix == "pip install 'lensmount[postgresql]'"
    assert "s3cret" not in str(caught.value)
