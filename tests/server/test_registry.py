from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from lensmount.errors import ConflictError, NotFoundError, UnavailableError
from lensmount_adapters.package import Package, read_package
from lensmount_server.registry import Record, Registry
from serving import Kit, Version, kept


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def registry(directory: Path) -> Iterator[Registry]:
    opened = Registry(directory)
    yield opened
    opened.close()


def staged(folder: Path, version: Version, card: str = "") -> tuple[Package, Path]:
    """A package unpacked in a staging folder; another `card` makes it another content."""
    target = folder / "package"
    shutil.copytree(version.folder, target)
    if card:
        (target / "README.md").write_text(card)
    return read_package(target), target


def add(registry: Registry, version: Version, card: str = "") -> tuple[Record, bool]:
    with registry.staging() as folder:
        return registry.add(*staged(folder, version, card))


def test_versions_count_from_one_for_each_task(registry: Registry, kit: Kit) -> None:
    numbers = [add(registry, version)[0].id for version in (*kit.defect, kit.surface, kit.grade)]
    assert [(each.task, each.version) for each in numbers] == [
        ("defect", 1),
        ("defect", 2),
        ("defect", 3),
        ("surface", 1),
        ("grade", 1),
    ]


def test_the_same_content_is_the_same_version(registry: Registry, kit: Kit, directory: Path) -> None:
    first, is_new = add(registry, kit.defect[0])
    assert is_new
    add(registry, kit.defect[1])
    again, is_new = add(registry, kit.defect[0])
    assert not is_new
    assert again == first
    assert len(kept(directory).blobs) == 2
    assert kept(directory).whole


def test_other_content_under_the_same_name_is_another_version(registry: Registry, kit: Kit) -> None:
    first, _ = add(registry, kit.defect[0])
    changed, is_new = add(registry, kit.defect[0], card="# the same weights, another word\n")
    assert is_new
    assert changed.id.version == 2
    assert changed.id.content_hash != first.id.content_hash


def test_the_package_lies_under_its_hash_unchanged(registry: Registry, kit: Kit) -> None:
    record, _ = add(registry, kit.grade)
    stored = read_package(registry.folder(record.id.content_hash))
    assert stored.content_hash == record.id.content_hash == kit.grade.adapter.content_hash
    assert record.size_bytes == stored.size_bytes
    assert record.manifest == stored.manifest
    assert abs(record.registered_time_ns - time.time_ns()) < 60e9


class Dawdling:
    """A lock whose holder pauses after it let go, so that others come in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        time.sleep(0.05)


def test_registrations_at_the_same_time_each_get_their_own_version(
    registry: Registry, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_write", Dawdling())
    packages = [staged(tmp_path / str(number), kit.defect[0], card=f"# {number}\n") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        records = [record for record, _ in pool.map(lambda each: registry.add(*each), packages)]
    assert [record.id.content_hash for record in records] == [package.content_hash for package, _ in packages]
    assert sorted(record.id.version for record in records) == [1, 2, 3, 4, 5, 6]


def test_an_alias_points_where_it_was_set_last(registry: Registry, kit: Kit) -> None:
    for version in kit.defect:
        add(registry, version)
    assert registry.set_alias("defect", "live", 1, None) == 0
    assert registry.set_alias("defect", "live", 3, None) == 1
    assert registry.set_alias("defect", "canary", 3, 0) == 0
    assert registry.resolve("defect", "live").id.version == 3
    assert registry.get("defect", 3).aliases == ("canary", "live")
    assert registry.get("defect", 1).aliases == ()
    assert sorted((alias, version.version) for alias, version in registry.pointed()) == [("canary", 3), ("live", 3)]


@pytest.mark.parametrize(("expected", "points_at"), [(2, 1), (0, 1), (7, 1)])
def test_an_alias_that_somebody_moved_is_left_alone(
    registry: Registry, kit: Kit, expected: int, points_at: int
) -> None:
    for version in kit.defect:
        add(registry, version)
    registry.set_alias("defect", "live", points_at, None)
    with pytest.raises(ConflictError) as caught:
        registry.set_alias("defect", "live", 3, expected)
    assert (caught.value.field, caught.value.value) == ("expected_version", str(expected))
    assert registry.resolve("defect", "live").id.version == 1
    assert registry.set_alias("defect", "live", 3, 1) == 1


def test_an_alias_of_what_is_not_there_is_refused(registry: Registry, kit: Kit) -> None:
    add(registry, kit.defect[0])
    for task, version in (("defect", 2), ("defect", 0), ("weather", 1)):
        with pytest.raises(NotFoundError, match=f"{task}:{version}"):
            registry.set_alias(task, "live", version, None)
    for task, alias in (("defect", "live"), ("weather", "live")):
        with pytest.raises(NotFoundError, match=f"{task}@{alias}"):
            registry.resolve(task, alias)
    assert registry.pointed() == []


def pages(registry: Registry, task: str, size: int) -> list[str]:
    hashes: list[str] = []
    after = None
    while page := registry.page(task, size, after):
        assert len(page) <= size
        hashes += [record.id.content_hash for record in page]
        after = page[-1].registered_time_ns, page[-1].id.content_hash
    return hashes


@pytest.mark.parametrize("same_time", [False, True])
def test_pages_hold_every_version_once_newest_first(
    registry: Registry, kit: Kit, same_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if same_time:
        monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    added = [add(registry, kit.defect[0], card=f"# {number}\n")[0] for number in range(7)]
    add(registry, kit.surface)
    newest_first = sorted(added, key=lambda record: (record.registered_time_ns, record.id.content_hash), reverse=True)
    hashes = [record.id.content_hash for record in newest_first]
    if not same_time:
        assert hashes == [record.id.content_hash for record in reversed(added)]
    assert pages(registry, "defect", 3) == pages(registry, "defect", 7) == pages(registry, "defect", 100) == hashes
    assert len(pages(registry, "", 2)) == 8
    assert pages(registry, "weather", 2) == []


def test_it_is_all_there_after_a_restart(directory: Path, kit: Kit) -> None:
    registry = Registry(directory)
    before = [add(registry, version)[0] for version in kit.defect]
    registry.set_alias("defect", "live", 2, None)
    registry.close()
    registry = Registry(directory)
    assert [registry.get("defect", number) for number in (1, 3)] == [before[0], before[2]]
    assert registry.resolve("defect", "live").id == before[1].id
    assert add(registry, kit.surface)[0].id.version == 1
    assert not add(registry, kit.defect[2])[1]
    registry.close()


def test_what_a_crash_left_is_swept_at_the_next_start(directory: Path, kit: Kit) -> None:
    registry = Registry(directory)
    record, _ = add(registry, kit.defect[0])
    registry.close()
    shutil.copytree(kit.defect[1].folder, directory / "blobs" / ("a" * 64))
    shutil.copytree(kit.defect[1].folder, directory / "staging" / "0123" / "package")
    (directory / "staging" / "0123" / "upload.zip").write_bytes(b"PK")
    assert not kept(directory).whole
    Registry(directory).close()
    assert kept(directory).whole
    assert kept(directory).rows == {record.id.content_hash}


def test_a_package_whose_row_can_not_be_written_does_not_stay(
    registry: Registry, kit: Kit, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OperationalError("INSERT", {}, OSError("disk full"))

    monkeypatch.setattr(registry, "_insert", full)
    with pytest.raises(OperationalError):
        add(registry, kit.defect[0])
    assert kept(directory).whole
    assert not kept(directory).rows
    monkeypatch.undo()
    assert add(registry, kit.defect[0])[0].id.version == 1


def test_a_staging_folder_goes_whatever_happens(registry: Registry, directory: Path) -> None:
    def fail() -> None:
        with registry.staging() as folder:
            (folder / "upload.zip").write_bytes(b"PK")
            assert kept(directory).staging == {folder.name}
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert not kept(directory).staging


def test_one_directory_has_one_server(registry: Registry, directory: Path, kit: Kit) -> None:
    with pytest.raises(UnavailableError, match="another server") as caught:
        Registry(directory)
    assert caught.value.field == "data_dir"
    assert str(directory).startswith(caught.value.value.rstrip("…"))
    add(registry, kit.defect[0])
    registry.close()
    Registry(directory).close()


def test_a_file_in_the_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.write_text("not a folder")
    with pytest.raises(UnavailableError) as caught:
        Registry(directory)
    assert caught.value.field == "data_dir"
    assert "--data-dir" in caught.value.fix


@pytest.mark.parametrize("damage", [b"this is no database " * 300, b""])
def test_a_damaged_database_is_one_clear_error(directory: Path, damage: bytes) -> None:
    Registry(directory).close()
    database = directory / "registry.sqlite"
    database.unlink()
    if damage:
        database.write_bytes(damage)
    else:
        database.mkdir()
    for _ in range(2):
        with pytest.raises(UnavailableError, match="registry") as caught:
            Registry(directory)
        assert caught.value.field == "data_dir"
        assert caught.value.fix
