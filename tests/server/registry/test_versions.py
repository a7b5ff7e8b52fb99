from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from lensmount.errors import NotFoundError, UnavailableError
from lensmount_adapters.package import content_hash, read_package
from lensmount_server.registry import NOBODY, Kind, Places, Registry
from lensmount_server.registry.blobs import FolderBlobs
from registries import ME, Shelf, add, add_all, numbers, opened


def stored(places: Places) -> set[str]:
    """The folders in the blob store."""
    return {path.name for path in Path(places.blobs).iterdir()}


def test_versions_count_from_one_for_each_task(registry: Registry, shelf: Shelf) -> None:
    cards = [("a", "defect"), ("b", "defect"), ("a", "surface"), ("c", "defect"), ("a", "grade")]
    found = [add(registry, shelf, card, task)[0].id for card, task in cards]
    expected = [("defect", 1), ("defect", 2), ("surface", 1), ("defect", 3), ("grade", 1)]
    assert [(each.task, each.version) for each in found] == expected


def test_the_versions_of_a_task_and_of_all(registry: Registry, shelf: Shelf) -> None:
    cards = [("a", "surface"), ("a", "defect"), ("b", "defect"), ("c", "defect")]
    surface, first, second, third = [add(registry, shelf, card, task)[0].id for card, task in cards]
    registry.delete("defect", 2)
    assert registry.identities("defect") == [first, third]
    assert registry.identities() == [first, third, surface]
    assert registry.identities(limit=1) == [first]
    assert registry.identities("weather") == []
    assert second.version == 2


def test_a_version_is_what_was_registered(registry: Registry, shelf: Shelf) -> None:
    record, is_new = add(registry, shelf, "a", by=ME)
    package, _ = shelf.package("a")
    assert is_new
    assert read_package(registry.folder(record.id)).content_hash == record.id.content_hash == package.content_hash
    assert (record.manifest, record.size_bytes, record.by) == (package.manifest, package.size_bytes, ME)
    assert registry.get("defect", 1) == registry.find(package.content_hash) == record
    assert registry.identify("defect", 1) == record.id
    assert registry.read(record.id).manifest == package.manifest


def test_the_same_content_is_the_same_version(registry: Registry, shelf: Shelf, places: Places) -> None:
    first, _ = add(registry, shelf, "a")
    second, _ = add(registry, shelf, "b")
    assert add(registry, shelf, "a") == (first, False)
    assert stored(places) == {first.blob, second.blob}
    assert [entry.kind for entry in registry.events(1)] == [Kind.REGISTERED_AGAIN]


@pytest.mark.parametrize("how", ["version", "task", "collected"])
def test_a_number_is_never_given_again(registry: Registry, shelf: Shelf, places: Places, how: str) -> None:
    add_all(registry, shelf, 3)
    if how == "version":
        registry.delete("defect", 3)
        registry.delete("defect", 2)
    elif how == "task":
        assert registry.delete_task("defect") == 3
    else:
        assert [each.version for each in registry.collect(0).removed] == [1, 2, 3]
    again, is_new = add(registry, shelf, "3")
    assert is_new
    assert again.id.version == 4
    assert add(registry, shelf, "new")[0].id.version == 5
    with pytest.raises(NotFoundError, match="deleted") as caught:
        registry.get("defect", 3)
    assert (caught.value.field, caught.value.value) == ("adapter", "defect:3")
    assert len(stored(places)) == len(numbers(registry))


@pytest.mark.parametrize("damage", ["a bit", "a file more", "a file less", "gone"])
def test_registering_again_mends_a_damaged_package(
    registry: Registry, shelf: Shelf, places: Places, damage: str
) -> None:
    record, _ = add(registry, shelf, "a")
    spoil(registry.folder(record.id), damage)
    again, is_new = add(registry, shelf, "a")
    assert not is_new
    assert (again.id, again.seq) == (record.id, record.seq)
    assert registry.get("defect", 1) == again
    assert content_hash(registry.folder(record.id)) == record.id.content_hash
    assert stored(places) == {again.blob}


def spoil(folder: Path, damage: str) -> None:
    card = folder / "README.md"
    if damage == "a bit":
        data = bytearray(card.read_bytes())
        data[1] ^= 4
        card.write_bytes(data)
    elif damage == "a file more":
        (folder / "more").write_bytes(b"")
    elif damage == "a file less":
        card.unlink()
    else:
        shutil.rmtree(folder)


def test_it_is_all_there_after_a_restart(tmp_path: Path, places: Places, shelf: Shelf) -> None:
    with opened(tmp_path / "data", places) as registry:
        add_all(registry, shelf, 3)
        registry.set_alias("defect", "live", 2)
        registry.tag("defect", 1, {"line": "7"}, ())
        registry.pin("defect", 3, "for the audit")
        before = registry.page(10), registry.events(100), registry.pointed()
    with opened(tmp_path / "data", places) as registry:
        assert (registry.page(10), registry.events(100), registry.pointed()) == before
        assert registry.get("defect", 3).pin_reason == "for the audit"
        assert registry.get("defect", 1).tags == {"line": "7"}
        assert registry.resolve("defect", "live").id.version == 2
        assert not add(registry, shelf, "2")[1]


def test_a_package_whose_row_can_not_be_written_does_not_stay(
    registry: Registry, shelf: Shelf, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UnavailableError("disk full")

    monkeypatch.setattr("lensmount_server.registry.registry.claim", full)
    with pytest.raises(UnavailableError, match="disk full"):
        add(registry, shelf, "a")
    assert not stored(places)
    assert numbers(registry) == set()
    monkeypatch.undo()
    assert add(registry, shelf, "a")[0].id.version == 1


def test_what_can_not_be_removed_now_is_removed_later(
    registry: Registry, shelf: Shelf, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object) -> None:
        raise UnavailableError("the disk is away")

    add_all(registry, shelf, 2)
    monkeypatch.setattr(FolderBlobs, "remove", stuck)
    registry.delete("defect", 1)  # it is deleted, whatever became of its package
    assert numbers(registry) == {("defect", 2)}
    assert len(stored(places)) == 2
    monkeypatch.undo()
    registry.delete("defect", 2)
    assert not stored(places)


def test_a_package_from_another_disk_is_copied(
    registry: Registry, shelf: Shelf, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def between_disks(self: Path, target: Path) -> Path:
        if self.name == "package":
            raise OSError(18, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", between_disks)
    record, _ = add(registry, shelf, "a")
    assert content_hash(registry.folder(record.id)) == record.id.content_hash
    assert stored(places) == {record.blob}


def test_a_staging_folder_goes_whatever_happens(registry: Registry, tmp_path: Path) -> None:
    def fail() -> None:
        with registry.staging() as folder:
            (folder / "upload.zip").write_bytes(b"PK")
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert not list((tmp_path / "data" / "staging").iterdir())


def test_one_directory_has_one_server(tmp_path: Path) -> None:
    with opened(tmp_path / "data"):
        with pytest.raises(UnavailableError, match="another server") as caught:
            Registry(tmp_path / "data")
        assert caught.value.field == "data_dir"
        assert "--data-dir" in caught.value.fix
    with opened(tmp_path / "data"):
        pass


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(UnavailableError) as caught:
        Registry(tmp_path / "data")
    assert caught.value.field == "data_dir"
    assert "--data-dir" in caught.value.fix


@pytest.mark.parametrize("name", ["what?", "100%20", "a#b", "ä ö", "with'quote"])
def test_a_directory_may_have_any_name(tmp_path: Path, shelf: Shelf, name: str) -> None:
    with opened(tmp_path / name) as registry:
        add(registry, shelf, "a")
    assert (tmp_path / name / "registry.sqlite").is_file()
    with closing(sqlite3.connect(tmp_path / name / "registry.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM adapter_versions").fetchone() == (1,)


@pytest.mark.parametrize("damage", [b"this is no database " * 300, b""])
def test_a_damaged_database_is_one_clear_error(tmp_path: Path, damage: bytes) -> None:
    with opened(tmp_path):
        pass
    database = tmp_path / "registry.sqlite"
    for path in tmp_path.glob("registry.sqlite*"):
        path.unlink()
    if damage:
        database.write_bytes(damage)
    else:
        database.mkdir()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="database") as caught:
            Registry(tmp_path)
        assert caught.value.field == "registry"
        assert caught.value.fix


def test_a_refused_package_leaves_a_line(registry: Registry) -> None:
    registry.refuse("defect", NotFoundError("the moon is missing", field="moon", fix="wait"), ME)
    (entry,) = registry.events(10)
    assert (entry.kind, entry.version.task, entry.version.version) == (Kind.REFUSED, "defect", 0)
    assert entry.by == ME
    assert "the moon is missing" in entry.detail


def test_it_may_be_asked_from_many_threads(registry: Registry, shelf: Shelf) -> None:
    add_all(registry, shelf, 2)
    wrong: list[BaseException] = []

    def work(alias: str) -> None:
        try:
            for version in (1, 2) * 5:
                registry.set_alias("defect", alias, version, None, NOBODY)
                assert registry.resolve("defect", alias).id.version == version
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(f"alias-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [entry.seq for entry in registry.since(0, 1000)] == list(range(1, 83))
