"""Databases that are away, full, locked, read-only or wrong: one clear error, nothing half done, and then on again."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from children import with_tests
from ledger import check_directory, check_whole
from lensmount.errors import IncompatibleError, InvalidInputError, UnavailableError
from lensmount_adapters.package import content_hash
from lensmount_server.registry import Places, Registry, database
from registries import Shelf, add, add_all, opened, refusal


def _back(registry: Registry) -> Any:
    target, expected = registry.rollback_target("defect", "live")
    return target, "live", expected


def _mend(registry: Registry, shelf: Shelf) -> None:
    card = registry.folder(registry.identify("defect", 1)) / "README.md"
    card.write_text("spoilt")
    try:
        add(registry, shelf, "1")
    finally:
        if card.exists():
            shutil.copy(shelf.package("1")[1] / "README.md", card)


CHANGES: list[tuple[str, Callable[[Registry, Shelf], object]]] = [
    ("register", lambda registry, shelf: add(registry, shelf, "new")),
    ("mend", _mend),
    ("promote", lambda registry, _: registry.set_alias("defect", "live", 3)),
    ("back", lambda registry, _: registry.roll_back(*_back(registry))),
    ("unset", lambda registry, _: registry.delete_alias("defect", "live")),
    ("delete", lambda registry, _: registry.delete("defect", 3)),
    ("delete task", lambda registry, _: registry.delete_task("defect")),
    ("collect", lambda registry, _: registry.collect(0)),
    ("tag", lambda registry, _: registry.tag("defect", 1, {"a": "b"}, ())),
]
by_name = pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])


@pytest.fixture
def stocked(tmp_path: Path, shelf: Shelf) -> Iterator[Registry]:
    with opened(tmp_path / "data") as registry:
        add_all(registry, shelf, 3)
        registry.set_alias("defect", "live", 1)
        registry.set_alias("defect", "live", 2)
        yield registry


@pytest.fixture
def statements() -> Iterator[list[Callable[[str], None]]]:
    """What is called before every statement of SQL, in all databases."""
    watchers: list[Callable[[str], None]] = []

    def before(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        for watcher in watchers:
            watcher(statement)

    event.listen(Engine, "before_cursor_execute", before)
    yield watchers
    event.remove(Engine, "before_cursor_execute", before)


@by_name
def test_a_disk_that_is_full_changes_nothing(
    stocked: Registry,
    tmp_path: Path,
    shelf: Shelf,
    name: str,
    change: Callable[[Registry, Shelf], object],
    statements: list[Callable[[str], None]],
) -> None:
    """SQLite itself finds no page more at the n-th statement, for every n."""
    shelf.package("new")
    for at in range(1, 200):
        shutil.copytree(tmp_path / "data", tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
        with opened(tmp_path / "copy") as registry:
            before = check_whole(registry, Places(blobs=str(tmp_path / "copy" / "blobs")))
            calls: list[str] = []

            def fail(statement: str, at: int = at, calls: list[str] = calls) -> None:
                calls.append(statement)
                if len(calls) >= at and not statement.startswith(("SELECT", "BEGIN")):
                    raise sqlite3.OperationalError("database or disk is full")

            statements.append(fail)
            refused = refusal(partial(change, registry, shelf))
            statements.clear()
            if refused is not None:
                assert (refused.field, "full" in refused.message, "room" in refused.fix) == ("registry", True, True)
        told = check_directory(tmp_path / "copy")
        assert refused is None or told == before
        shutil.rmtree(tmp_path / "copy")
        if refused is None and len(calls) < at:
            break
    assert at > 3, name


def test_pages_that_run_out_are_told_and_room_mends_it(stocked: Registry, shelf: Shelf, tmp_path: Path) -> None:
    pages: list[int] = []

    def narrow(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages[0]}")

    with closing(sqlite3.connect(tmp_path / "data" / "registry.sqlite")) as other:
        pages.append(other.execute("PRAGMA page_count").fetchone()[0])
    engine = stocked._database._engine
    event.listen(engine, "connect", narrow)
    engine.dispose()
    for fill in (
        lambda number: stocked.tag("defect", 1, {f"key-{number}": "x" * 200}, ()),
        lambda number: add(stocked, shelf, f"more-{number}"),
    ):
        refused = next(filter(None, (refusal(partial(fill, number)) for number in range(200))))
        assert "full" in refused.message
        assert "room" in refused.fix
    pages[0] = 1_000_000
    engine.dispose()
    assert add(stocked, shelf, "more")[1]
    check_whole(stocked, Places(blobs=str(tmp_path / "data" / "blobs")))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from lensmount.errors import UnavailableError
from lensmount_server.registry import Registry
from registries import Shelf, add

directory, shelf = map(Path, sys.argv[1:])
registry = Registry(directory)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for number in range(400):
    try:
        registry.tag("defect", 1, {"key": "x" * 200}, ())
        add(registry, Shelf(shelf), "1")
    except UnavailableError as error:
        print(error)
        break
"""


def test_a_file_that_may_not_grow_is_told(stocked: Registry, tmp_path: Path, shelf: Shelf) -> None:
    stocked.close()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "data"), str(shelf.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=with_tests())
    assert done.returncode == 0, done.stderr
    assert "Fix:" in done.stdout
    check_directory(tmp_path / "data")


@by_name
def test_a_database_that_may_not_be_written_still_answers(
    stocked: Registry, shelf: Shelf, name: str, change: Callable[[Registry, Shelf], object]
) -> None:
    engine = stocked._database._engine
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    engine.dispose()
    before = stocked.page(9), stocked.events(99), stocked.pointed()
    with pytest.raises(UnavailableError, match="readonly") as caught:
        change(stocked, shelf)
    assert caught.value.field == "registry"
    assert "may write" in caught.value.fix
    assert (stocked.page(9), stocked.events(99), stocked.pointed()) == before
    assert stocked.read(stocked.identify("defect", 2))


def test_a_locked_database_is_told_and_waited_for(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 50)
    with (
        opened(tmp_path / "data") as registry,
        closing(sqlite3.connect(tmp_path / "data" / "registry.sqlite", isolation_level=None)) as other,
    ):
        add_all(registry, shelf, 2)
        other.execute("BEGIN EXCLUSIVE")
        for change in (
            lambda: registry.set_alias("defect", "live", 1),
            lambda: add(registry, shelf, "new"),
            lambda: registry.delete("defect", 1),
        ):
            with pytest.raises(UnavailableError, match="locked") as caught:
                change()
            assert "other program" in caught.value.fix
        assert registry.get("defect", 1)  # whoever reads does not wait
        other.execute("ROLLBACK")
        registry.set_alias("defect", "live", 1)
        check_whole(registry, Places(blobs=str(tmp_path / "data" / "blobs")))


def test_packages_without_room_leave_nothing(
    stocked: Registry, tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename
    for errno, why in ((28, "No space left on device"), (30, "Read-only file system"), (5, "Input/output error")):

        def fail(self: Path, target: Path, errno: int = errno, why: str = why) -> Path:
            if self.name == "package":
                raise OSError(errno, why)
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail)
            with pytest.raises(UnavailableError, match=why) as caught:
                add(stocked, shelf, "new")
        assert caught.value.field == "packages"
        assert "room" in caught.value.fix
        check_whole(stocked, Places(blobs=str(tmp_path / "data" / "blobs")))
    assert add(stocked, shelf, "new")[1]


@pytest.mark.parametrize("name", ["task.json", "adapter_model.safetensors", "golden.safetensors", "README.md"])
def test_no_flipped_bit_is_ever_served(stocked: Registry, tmp_path: Path, shelf: Shelf, name: str) -> None:
    identity = stocked.identify("defect", 2)
    path = stocked.folder(identity) / name
    data = path.read_bytes()
    # The first and last bytes (of lengths, headers and tensors), some between, and each bit of a byte in turn.
    places = {*range(min(24, len(data))), *range(max(0, len(data) - 16), len(data)), *range(0, len(data), 41)}
    for turn, place in enumerate(sorted(places)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << turn % 8
        path.write_bytes(spoilt)
        with pytest.raises(IncompatibleError, match="changed on disk"):
            stocked.read(identity)
    for spoilt_length in (data[:-1], data + b"\0", b""):
        path.write_bytes(spoilt_length)
        with pytest.raises(IncompatibleError, match="changed on disk"):
            stocked.read(identity)
    assert not add(stocked, shelf, "2")[1]
    assert content_hash(stocked.folder(identity)) == identity.content_hash
    assert stocked.read(identity).content_hash == identity.content_hash


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql//lensmount:s3cret@host/db", "not a database URL"),
        ("postgresql://lensmount:s3cret@host:port/db", "not a database URL"),
        ("lensmount:s3cret", "not a database URL"),
        ("mysql://lensmount:s3cret@host/db", "SQLite or PostgreSQL"),
        ("postgresql+asyncpg://lensmount:s3cret@host/db", "SQLite or PostgreSQL"),
        ("sqlite://", "a file expected"),
        ("sqlite:///:memory:", "a file expected"),
    ],
)
def test_a_url_that_can_not_work_is_refused_without_its_password(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        Registry(tmp_path, Places(url))
    assert caught.value.field == "registry"
    assert "postgresql+psycopg://" in caught.value.fix
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error)
        error = error.__cause__ or error.__context__
    with opened(tmp_path):
        pass  # the directory was let go of


def test_it_does_not_matter_that_the_clock_goes_backwards(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10**18, 0, -(10**13)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now))
    for _ in range(3):
        with opened(tmp_path / "data") as registry:
            add_all(registry, shelf, 4)
            registry.beat()
            for version in (1, 2, 3, 1):
                registry.set_alias("defect", "live", version)
            registry.use([("defect", 2)])
            registry.collect(0)
            registry.roll_back(*_back(registry))
    check_directory(tmp_path / "data")
