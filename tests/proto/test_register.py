from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from lensmount import Client, IncompatibleError, InvalidInputError
from lensmount.archive import CHUNK_BYTES, Archive, Upload, open_archive, upload_messages
from lensmount.v1 import adapters_pb2, common_pb2

if TYPE_CHECKING:
    from proto.conftest import WireDouble

FILES = {"task.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 12_000, "README.md": b"# card"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "defect"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def answering(double: WireDouble) -> WireDouble:
    def answer(requests: Any, _: grpc.ServicerContext) -> adapters_pb2.RegisterAdapterResponse:
        list(requests)
        adapter = adapters_pb2.Adapter(version=common_pb2.AdapterVersion(task="defect", version=2), aliases=["live"])
        checks = [adapters_pb2.GateCheck(name="golden", detail="5 pictures", duration_ms=7.5)]
        return adapters_pb2.RegisterAdapterResponse(adapter=adapter, checks=checks, already_registered=True)

    double.answers["RegisterAdapter"] = answer
    return double


def archived(path: Path) -> bytes:
    with open_archive(path) as archive:
        return archive.file.read()


def uploaded(double: WireDouble) -> tuple[adapters_pb2.RegisterAdapterHeader, bytes]:
    header, *chunks = double.asked["RegisterAdapter"]
    assert all(0 < len(chunk.chunk) <= 1 << 20 for chunk in chunks)
    return header.header, b"".join(chunk.chunk for chunk in chunks)


def test_a_folder_arrives_as_a_zip(answering: WireDouble, client: Client, package: Path) -> None:
    told: list[tuple[int, int]] = []
    registration = client.register(package, alias="canary", progress=lambda *sent: told.append(sent))
    assert (registration.adapter.task, registration.adapter.version) == ("defect", 2)
    assert registration.already_registered
    assert [(check.name, check.detail, check.duration_ms) for check in registration.checks] == [
        ("golden", "5 pictures", 7.5)
    ]
    header, data = uploaded(answering)
    assert header.set_alias == "canary"
    assert (header.size_bytes, header.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    sizes = [CHUNK_BYTES, 2 * CHUNK_BYTES, len(data)]
    assert told == [(size, len(data)) for size in sizes]


def test_a_zip_arrives_as_it_is(answering: WireDouble, client: Client, package: Path) -> None:
    file = shutil.make_archive(str(package), "zip", package)
    client.register(file)
    header, data = uploaded(answering)
    assert data == Path(file).read_bytes()
    assert header.set_alias == ""


def test_the_same_folder_gives_the_same_bytes(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in reversed(FILES):
        (copy / name).write_bytes(FILES[name])
        os.utime(copy / name, (1e9, 1e9))
        (copy / name).chmod(0o600)
    assert archived(package) == archived(copy)
    (copy / "README.md").write_bytes(b"# Card")
    assert archived(package) != archived(copy)


def test_entries_are_stored_sorted_and_dated(package: Path) -> None:
    (package / ".DS_Store").write_bytes(b"junk")
    (package / ".cache").mkdir()
    (package / ".cache" / "junk").write_bytes(b"junk")
    (package / "extra").mkdir()
    (package / "extra" / "notes").write_bytes(b"for the server to refuse")
    with zipfile.ZipFile(BytesIO(archived(package))) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == [
        "README.md",
        "adapter_model.safetensors",
        "extra/notes",
        "task.json",
    ]
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks_cover_the_archive_exactly(size: int) -> None:
    archive = Archive(BytesIO(bytes(size)), size, "")
    _, *chunks = upload_messages(archive, Upload())
    assert [len(chunk.chunk) for chunk in chunks[:-1]] == [CHUNK_BYTES] * (len(chunks) - 1)
    assert sum(len(chunk.chunk) for chunk in chunks) == size


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (str, "nothing there"),
        (lambda path: path.mkdir(), "no task.json in the folder"),
        (lambda path: path.write_bytes(b"PK but no"), "neither a folder nor a ZIP"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "no task.json at the top"),
        (os.mkfifo, "not a file"),
    ],
    ids=["absent", "empty folder", "no zip", "empty zip", "pipe"],
)
def test_what_is_no_package_never_leaves(
    make: Callable[[Path], Any], says: str, tmp_path: Path, double: WireDouble, client: Client
) -> None:
    path = tmp_path / "package"
    make(path)
    with pytest.raises(InvalidInputError, match=says) as caught:
        client.register(path)
    assert caught.value.field == "path"
    assert "lensmount train" in caught.value.fix
    assert not double.asked


def test_a_refusal_after_the_header_stops_the_upload(
    double: WireDouble, connect: Callable[..., Client], package: Path
) -> None:
    (package / "adapter_model.safetensors").write_bytes(bytes(64 << 20))

    def answer(requests: Any, context: grpc.ServicerContext) -> None:
        next(requests)
        refuse(None, context)

    double.fail("RegisterAdapter", IncompatibleError("another backbone", field="backbone", value="vit", fix="retrain"))
    refuse = double.answers["RegisterAdapter"]
    double.answers["RegisterAdapter"] = answer
    client = connect(double.address)
    told: list[int] = []
    for _ in range(5):
        with pytest.raises(IncompatibleError, match="another backbone") as caught:
            client.register(package, progress=lambda sent, _: told.append(sent))
        assert (caught.value.field, caught.value.fix) == ("backbone", "retrain")
    assert max(told, default=0) < 64 << 20


def test_a_file_that_vanishes_midway_is_an_error_of_ours(answering: WireDouble, client: Client, package: Path) -> None:
    def fail(*_: int) -> None:
        raise OSError(5, "disk on fire", str(package))

    with pytest.raises(InvalidInputError, match="disk on fire"):
        client.register(package, progress=fail)
