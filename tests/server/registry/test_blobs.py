"""Where packages lie: the same is asked of a folder and of object stores; what fails on the way leaves nothing half."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from lensmount.errors import IncompatibleError, InvalidInputError, MissingExtraError, NotFoundError, UnavailableError
from lensmount_adapters.package import content_hash
from lensmount_server.registry import Places, Registry
from lensmount_server.registry import blobs as blobs_module
from lensmount_server.registry.blobs import BlobStore, ObjectBlobs, open_blobs
from registries import Shelf, add, add_all, opened, refusal
from stores import FailingFileSystem


@pytest.fixture(params=["folder", "file", "memory", "local"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = tmp_path / "store"
    return {
        "folder": str(place),
        "file": f"file://{place}",
        "memory": f"memory://{uuid.uuid4().hex}/lensmount",
        "local": f"local://{place}",
    }[request.param]


@pytest.fixture
def store(address: str, tmp_path: Path) -> BlobStore:
    return open_blobs(address, tmp_path / "here")


@pytest.fixture
def package(shelf: Shelf, tmp_path: Path) -> Callable[[], Path]:
    def copy() -> Path:
        return Path(shutil.copytree(shelf.package("a")[1], tmp_path / uuid.uuid4().hex / "package"))

    return copy


def test_what_was_put_is_got_until_it_is_removed(store: BlobStore, package: Callable[[], Path], shelf: Shelf) -> None:
    for key in ("one", "two"):
        store.put(key, package())
    for anew in (False, True, False):
        assert content_hash(store.get("one", anew=anew)) == shelf.package("a")[0].content_hash
    store.remove("one")
    for anew in (False, True):
        with pytest.raises(NotFoundError, match="gone") as caught:
            store.get("one", anew=anew)
        assert (caught.value.field, caught.value.value) == ("adapter", "one")
    assert content_hash(store.get("two")) == shelf.package("a")[0].content_hash
    store.remove("one")
    store.remove("never")


def test_another_server_sees_it_at_once(
    store: BlobStore, address: str, tmp_path: Path, package: Callable[[], Path]
) -> None:
    other = open_blobs(address, tmp_path / "there")
    with pytest.raises(NotFoundError):
        other.get("one")
    store.put("one", package())
    assert other.get("one").is_dir()
    store.remove("one")
    with pytest.raises(NotFoundError):
        other.get("one", anew=True)


@pytest.fixture
def places(address: str, tmp_path: Path) -> Places:
    return Places(f"sqlite:///{tmp_path / 'registry.sqlite'}", address)


def test_a_registry_works_on_it(registry: Registry, other: Registry, shelf: Shelf) -> None:
    first, second = add_all(registry, shelf, 2)
    assert other.read(first).content_hash == first.content_hash
    registry.delete("defect", 1)
    with pytest.raises(NotFoundError):
        other.read(first)
    assert other.read(second).content_hash == second.content_hash
    assert add(other, shelf, "1")[0].id.version == 3


@pytest.fixture
def objects(tmp_path: Path) -> ObjectBlobs:
    return ObjectBlobs(f"memory://{uuid.uuid4().hex}", tmp_path / "cache")


def flip(path: Path, bit: int = 9) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("address", ["memory"], indirect=True)
@pytest.mark.parametrize("name", ["README.md", "adapter_model.safetensors", "golden.safetensors", "task.json"])
def test_a_damaged_copy_is_fetched_again(registry: Registry, shelf: Shelf, name: str) -> None:
    record, _ = add(registry, shelf, "a")
    for damage in (flip, Path.unlink, lambda path: path.write_bytes(b"")):
        damage(registry.folder(record.id) / name)
        assert registry.read(record.id).content_hash == record.id.content_hash
        assert content_hash(registry.folder(record.id)) == record.id.content_hash
    (registry.folder(record.id) / "more").write_text("")
    assert registry.read(record.id).content_hash == record.id.content_hash


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_a_good_copy_does_not_hide_a_damaged_store(registry: Registry, address: str, shelf: Shelf) -> None:
    record, _ = add(registry, shelf, "a")
    registry.read(record.id)
    files, root = fsspec.core.url_to_fs(address)
    files.pipe_file(f"{root}/{record.blob}/README.md", b"another card")
    again, is_new = add(registry, shelf, "a")
    assert not is_new
    assert again.blob != record.blob
    shutil.rmtree(registry.folder(record.id))
    assert registry.read(record.id).content_hash == record.id.content_hash
    assert not files.exists(f"{root}/{record.blob}")


def test_a_store_that_is_damaged_itself_is_refused(registry: Registry, address: str, shelf: Shelf) -> None:
    record, _ = add(registry, shelf, "a")
    files, root = fsspec.core.url_to_fs(address)
    where = f"{root}/{record.blob}/README.md"
    files.pipe_file(where, files.cat_file(where) + b"!")
    with pytest.raises(IncompatibleError, match="changed on disk"):
        registry.read(record.id)
    add(registry, shelf, "a")
    assert registry.read(record.id).content_hash == record.id.content_hash


def test_copies_are_trimmed_the_least_recently_asked_for_first(
    objects: ObjectBlobs, package: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in package().iterdir())
    monkeypatch.setattr(blobs_module, "CACHE_BYTES", 2 * size)
    for place, key in enumerate(("one", "two", "three")):
        objects.put(key, package())
        os.utime(objects.get(key), (place, place))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"two", "three"}
    objects.get("two")
    objects.get("one")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"one", "two"}
    monkeypatch.setattr(blobs_module, "CACHE_BYTES", 0)
    assert objects.get("three").is_dir()


def test_what_was_half_fetched_goes_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "cache" / ".one-1234").mkdir(parents=True)
    (tmp_path / "cache" / ".one-1234" / "task.json").write_text("{")
    ObjectBlobs("memory://anything", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Places]:
    FailingFileSystem.reset()
    FailingFileSystem.store.clear()
    FailingFileSystem.pseudo_dirs[:] = [""]
    yield Places(f"sqlite:///{tmp_path / 'registry.sqlite'}", "failing://packages")
    FailingFileSystem.reset()


class OfItsOwnError(Exception):
    """Drivers have errors that are no OSError."""


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OfItsOwnError("no credentials"), TimeoutError()])
def test_a_store_that_fails_at_any_call_leaves_nothing_half(
    failing: Places, tmp_path: Path, shelf: Shelf, error: Exception
) -> None:
    at, failures = 0, 0
    while True:
        at += 1
        with opened(tmp_path / "data", failing) as registry:
            record, _ = add(registry, shelf, "kept")
            FailingFileSystem.reset(at, error)
            refused = refusal(partial(add, registry, shelf, f"call-{at}"))
            if refused is not None:
                assert (refused.field, refused.value) == ("packages", "failing://packages")
                assert refused.fix
                assert (str(error) or "TimeoutError").split("] ")[-1] in refused.message
                failures += 1
            reached = FailingFileSystem.calls >= at
        with opened(tmp_path / "data", failing):
            pass  # it starts, though the store is still away
        FailingFileSystem.reset()
        with opened(tmp_path / "data", failing) as registry:
            assert (registry.find(shelf.package(f"call-{at}")[0].content_hash) is None) == (refused is not None)
            stored = {name.split("/")[-2] for name in FailingFileSystem.store}
            assert stored == {each.blob for each in registry.page(1000)}
            assert registry.read(record.id).content_hash == record.id.content_hash
        if not reached:
            break
    assert failures >= 8


def test_a_store_that_fails_while_it_is_read_is_told(failing: Places, tmp_path: Path, shelf: Shelf) -> None:
    with opened(tmp_path / "data", failing) as registry:
        record, _ = add(registry, shelf, "a")
        for at in range(1, 100):
            FailingFileSystem.reset(at)
            refused = refusal(partial(registry.read, record.id))
            if refused is None:
                break
            assert refused.field == "packages"
            assert not list((tmp_path / "data" / "cache").iterdir())
        assert at > 8


def test_a_store_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a store") as caught:
        open_blobs("nonsense://bucket", tmp_path)
    assert (caught.value.field, caught.value.value) == ("packages", "nonsense://bucket")
    assert "s3://" in caught.value.fix


@pytest.mark.parametrize(("scheme", "fix"), [("s3", "lensmount[s3]"), ("gs", "driver for gs")])
def test_a_store_whose_driver_is_missing_names_it(
    tmp_path: Path, scheme: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise ImportError(f"Install {scheme}fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError) as caught:
        open_blobs(f"{scheme}://bucket", tmp_path)
    assert caught.value.field == "packages"
    assert fix in caught.value.fix


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for address, place in ((str(tmp_path / "file" / "x"), tmp_path), ("memory://x", tmp_path / "file")):
        with pytest.raises(UnavailableError) as caught:
            open_blobs(address, place)
        assert caught.value.field == "packages"
        assert caught.value.fix
