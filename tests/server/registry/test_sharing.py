"""What servers on one registry leave to each other, and what they clear away."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ledger import check_whole
from lensmount.errors import UnavailableError
from lensmount_server.registry import Places, Registry, usage
from lensmount_server.registry.blobs import FolderBlobs
from lensmount_server.registry.packages import Packages
from registries import Shelf, add, add_all, opened


def stored(places: Places) -> set[str]:
    return {path.name for path in Path(places.blobs).iterdir()}


def test_what_one_registers_the_other_has(registry: Registry, other: Registry, shelf: Shelf) -> None:
    record, _ = add(registry, shelf, "a")
    assert other.get("defect", 1) == record
    assert other.read(record.id).content_hash == record.id.content_hash
    registry.set_alias("defect", "live", 1)
    assert other.resolve("defect", "live").id == record.id
    assert other.since(0, 9) == registry.since(0, 9)


def begin_upload(registry: Registry, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a package that was stored and has no row, as a process that was killed does."""
    with monkeypatch.context() as patch:
        patch.setattr("lensmount_server.registry.packages.Packages._take_back", lambda *_: None)
        patch.setattr("lensmount_server.registry.registry._insert", _killed)
        with pytest.raises(KeyboardInterrupt):
            add(registry, shelf, "begun")


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_server_clears_away_what_it_left_and_not_what_others_are_at(
    tmp_path: Path, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "one", places) as one:
        begin_upload(one, shelf, monkeypatch)
        assert len(stored(places)) == 1
        with opened(tmp_path / "two", places):
            assert len(stored(places)) == 1  # the other may still be at it
    with opened(tmp_path / "one", places) as one:
        assert stored(places) == set()
        assert add(one, shelf, "begun")[1]


def test_what_a_dead_server_left_is_cleared_away_by_others(
    tmp_path: Path, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "dead", places) as dead:
        begin_upload(dead, shelf, monkeypatch)
    later = time.time_ns() + usage.DEAD_NS + 1
    monkeypatch.setattr(time, "time_ns", lambda: later)
    with opened(tmp_path / "two", places) as two:
        assert stored(places) == set()
        check_whole(two, places)


def test_a_server_that_starts_at_the_same_time_is_not_taken_for_dead(
    tmp_path: Path, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    Registry(tmp_path / "first", places).close()
    abandon = Packages.abandon
    new: list[Registry] = []

    def start() -> None:
        new.append(Registry(tmp_path / "new", places))
        begin_upload(new[0], shelf, monkeypatch)

    starting = threading.Thread(target=start)

    def after_the_other(*arguments: Any) -> None:
        monkeypatch.setattr(Packages, "abandon", abandon)
        starting.start()
        starting.join(1.0)
        abandon(*arguments)

    monkeypatch.setattr(Packages, "abandon", after_the_other)
    Registry(tmp_path / "one", places).close()
    starting.join()
    assert len(stored(places)) == 1
    new[0].close()


def test_who_was_taken_for_dead_while_it_stored_is_told(
    tmp_path: Path, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderBlobs.put

    def slowly(self: FolderBlobs, key: str, folder: Path) -> None:
        now = time.time_ns()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: now + usage.DEAD_NS + 1)
            Registry(tmp_path / "two", places).close()
        put(self, key, folder)

    with opened(tmp_path / "one", places) as one:
        add(one, shelf, "a")
        with monkeypatch.context() as patch:
            patch.setattr(FolderBlobs, "put", slowly)
            with pytest.raises(UnavailableError, match="took this one for dead") as caught:
                add(one, shelf, "b")
        assert caught.value.field == "packages"
        assert "clocks" in caught.value.fix
        check_whole(one, places)
        assert add(one, shelf, "b")[0].id.version == 2


def test_one_that_reads_while_the_other_mends_reads_what_is_right(
    registry: Registry, other: Registry, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = add(registry, shelf, "a")
    (registry.folder(record.id) / "README.md").write_text("spoilt")
    folder = FolderBlobs.get
    looked = []

    def mended_after(self: FolderBlobs, key: str, *, anew: bool = False) -> Path:
        found = folder(self, key, anew=anew)
        looked.append(key)
        if len(looked) == 1:
            add(registry, shelf, "a")
        return found

    monkeypatch.setattr(FolderBlobs, "get", mended_after)
    assert other.read(record.id).content_hash == record.id.content_hash
    assert len(set(looked)) == 2


def test_two_that_clear_away_at_once_do_not_disturb_each_other(
    registry: Registry, other: Registry, shelf: Shelf, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_all(registry, shelf, 6)
    remove = FolderBlobs.remove

    def before_the_other(self: FolderBlobs, key: str) -> None:
        remove(self, key)
        remove(self, key)

    monkeypatch.setattr(FolderBlobs, "remove", before_the_other)
    for version in range(1, 7):
        (registry if version % 2 else other).delete("defect", version)
    assert stored(places) == set()


def test_a_task_of_thousands_can_be_cleared_away(
    registry: Registry, places: Places, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensmount_server.registry.records.BATCH", 2)
    add_all(registry, shelf, 7)
    assert registry.delete_task("defect") == 7
    assert stored(places) == set()
    shutil.rmtree(places.blobs)
