"""Uploads that break off: what came is kept, the next call goes on there, and what came wrong is forgotten."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from lensmount import AsyncClient, Client, UnavailableError, archive
from lensmount.archive import Progress
from lensmount.errors import ConflictError, InvalidInputError
from lensmount.results import Registration
from lensmount.v1 import adapters_pb2
from lensmount_server import uploads
from lensmount_server.services import upload as receiving
from lensmount_server.uploads import MAX_AGE_S, MAX_KEPT, Announced, Uploads
from registering import Request, announced, chunks, packed, upload
from serving import PATIENCE_S, Kit, Served, kept, refused


class Usage(NamedTuple):
    """As of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


@pytest.fixture
def data(kit: Kit) -> bytes:
    """A package as it is sent: 10,000 bytes a chunk, at least five of them."""
    package = packed(kit.defect[0].folder)
    assert len(package) > 50_000
    return package


async def received(server: Served, data: bytes) -> int:
    header = announced(data).header
    asked = adapters_pb2.GetUploadRequest(size_bytes=header.size_bytes, sha256=header.sha256)
    return (await server.adapters.GetUpload(asked)).received_bytes


async def until(server: Served, data: bytes, size: int) -> None:
    """Wait until so much is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await received(server, data) >= size:
                return
            await asyncio.sleep(0.01)


async def send(server: Served, *requests: Request) -> adapters_pb2.RegisterAdapterResponse:
    return await server.adapters.RegisterAdapter(upload(requests))


def sent(data: bytes, count: int) -> list[Request]:
    """The beginning of an upload."""
    return [announced(data), *chunks(data)[:count]]


async def test_an_upload_goes_on_where_it_broke_off(server: Served, data: bytes) -> None:
    assert await received(server, data) == 0
    error = await refused(server.adapters.RegisterAdapter(upload(sent(data, 2))))
    assert isinstance(error, InvalidInputError)
    assert (error.field, error.value) == ("chunk", "20,000 bytes")
    assert "goes on where it ended" in error.fix
    assert await received(server, data) == 20_000
    rest = announced(data, offset=20_000)
    assert (await refused(server.adapters.RegisterAdapter(upload([rest, *chunks(data[20_000:40_000])])))).fix
    assert await received(server, data) == 40_000
    wrong = await refused(server.adapters.RegisterAdapter(upload([announced(data, offset=40_001)])))
    assert isinstance(wrong, InvalidInputError)
    assert (wrong.field, wrong.value) == ("header.offset", "40001")
    assert "40,000 bytes are here" in wrong.message
    assert "GetUpload" in wrong.fix
    assert await received(server, data) == 40_000
    done = await send(server, announced(data, offset=30_000), *chunks(data[30_000:]))  # a little of it again
    assert done.adapter.version.version == 1
    assert "30,000 of them from before" in done.checks[0].detail
    assert await received(server, data) == 0
    assert kept(server.data_dir).whole


async def test_what_was_damaged_is_forgotten(server: Served, data: bytes) -> None:
    damaged = bytearray(data)
    damaged[100] ^= 1
    header = announced(data)
    await refused(server.adapters.RegisterAdapter(upload([header, *chunks(bytes(damaged[:20_000]))])))
    rest = announced(data, offset=20_000)
    error = await refused(server.adapters.RegisterAdapter(upload([rest, *chunks(data[20_000:])])))
    assert isinstance(error, InvalidInputError)
    assert (error.field, error.value) == ("header.sha256", header.header.sha256)
    assert "send it again" in error.fix
    assert await received(server, data) == 0
    assert (await refused(server.adapters.RegisterAdapter(upload([rest])))).field == "header.offset"
    assert (await send(server, header, *chunks(data))).adapter.version.version == 1


async def slowly(data: bytes, more: asyncio.Event) -> AsyncIterator[Request]:
    for request in sent(data, 2):
        yield request
    await more.wait()
    for request in chunks(data)[2:]:
        yield request


async def test_of_two_calls_that_send_the_same_one_is_refused(
    server: Served, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "LEAVING_S", 0.1)
    more = asyncio.Event()
    first = server.adapters.RegisterAdapter(slowly(data, more))
    await until(server, data, 20_000)
    error = await refused(server.adapters.RegisterAdapter(upload(sent(data, 9))))
    assert isinstance(error, ConflictError)
    assert error.field == "header.sha256"
    assert "wait for the other call" in error.fix
    assert await received(server, data) == 20_000
    more.set()
    assert (await first).adapter.version.version == 1
    assert (await send(server, announced(data), *chunks(data))).already_registered


async def test_a_call_waits_for_one_that_is_about_to_end(server: Served, data: bytes) -> None:
    first = server.adapters.RegisterAdapter(slowly(data, asyncio.Event()))
    await until(server, data, 20_000)
    second = asyncio.ensure_future(send(server, announced(data, offset=20_000), *chunks(data[20_000:])))
    await asyncio.wait([second], timeout=0.3)
    assert not second.done()
    third = asyncio.ensure_future(send(server, announced(data), *chunks(data)))
    await asyncio.wait([third], timeout=0.3)
    first.cancel()
    done, same = await second, await third  # the third waited for the second as well
    assert done.adapter.version == same.adapter.version
    assert {done.already_registered, same.already_registered} == {False, True}
    assert "20,000 of them from before" in done.checks[0].detail


async def test_a_client_that_went_away_goes_on_at_once(server: Served, data: bytes) -> None:
    for turn in range(1, 4):
        gone = asyncio.Event()

        async def part(turn: int = turn, gone: asyncio.Event = gone) -> AsyncIterator[Request]:
            at = (turn - 1) * 10_000
            yield announced(data, offset=at)
            yield Request(chunk=data[at : turn * 10_000])
            await gone.wait()

        call = server.adapters.RegisterAdapter(part())
        await until(server, data, turn * 10_000)
        call.cancel()
    done = await send(server, announced(data, offset=30_000), *chunks(data[30_000:]))
    assert done.adapter.version.version == 1


async def test_a_call_that_comes_to_a_standstill_makes_room_for_the_next(
    server: Served, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PATIENCE_S", 0.3)

    async def stuck() -> AsyncIterator[Request]:
        for request in sent(data, 2):
            yield request
        await asyncio.sleep(PATIENCE_S)

    error = await refused(server.adapters.RegisterAdapter(stuck()))
    assert isinstance(error, UnavailableError)
    assert (error.field, error.value) == ("chunk", "20,000 bytes")
    assert "goes on where it ended" in error.fix
    done = await send(server, announced(data, offset=20_000), *chunks(data[20_000:]))
    assert done.adapter.version.version == 1


class Breaking:
    """A way to a server that breaks each connection after so many bytes from the client; then it breaks no more.

    It breaks none before the server has kept a chunk, of 1000 bytes, of what came.
    """

    def __init__(self, server: Served, *limits: int) -> None:
        self._folder = server.data_dir / "uploads"
        self._port = int(server.address.rpartition(":")[2])
        self._limits = list(limits)
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self.connections += 1
        limit = self._limits.pop(0) if self._limits else None
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(carry(there, writer, None))
        await carry(reader, back, limit)
        if limit is not None:
            await self._kept()
        back.close()
        writer.close()
        await answers

    async def _kept(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if any(part.stat().st_size >= 1000 for part in self._folder.glob("*.part")):
                    return
                await asyncio.sleep(0.01)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
    size = 0
    with suppress(ConnectionError):
        while (limit is None or size < limit) and (data := await reader.read(4096)):
            size += len(data)
            writer.write(data)
            await writer.drain()


@pytest.mark.parametrize("blocking", [True, False])
async def test_the_client_goes_on_by_itself_where_the_connection_broke(
    server: Served, kit: Kit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, blocking: bool
) -> None:
    monkeypatch.setattr(archive, "CHUNK_BYTES", 1000)
    told: list[int] = []

    def progress(so_far: int, _: int) -> None:
        told.append(so_far)

    breaking = Breaking(server, 30_000, 30_000)
    proxy = await asyncio.start_server(breaking, "127.0.0.1", 0)
    address = f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    folder = kit.defect[0].folder
    if blocking:
        done = await asyncio.to_thread(registered, address, folder, progress)
    else:
        async with AsyncClient(address, timeout=PATIENCE_S) as client:
            done = await client.register(folder, progress=progress)
    proxy.close()
    gc.collect()
    assert done.adapter.version == 1
    assert "of them from before" in done.checks[0].detail
    assert breaking.connections == 3
    assert told.count(1000) == 1  # nothing began anew
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def registered(address: str, folder: Path, progress: Progress) -> Registration:
    with Client(address, timeout=PATIENCE_S) as client:
        return client.register(folder, progress=progress)


async def test_without_room_on_the_disk_nothing_is_taken(
    server: Served, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 2 * len(data) + uploads.ROOM_BYTES - 1))
    error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
    assert isinstance(error, UnavailableError)
    assert error.field == "header.size_bytes"
    assert error.value.endswith("bytes free")
    assert "lensmount adapters collect" in error.fix
    assert await received(server, data) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 2 * len(data) + uploads.ROOM_BYTES))
    assert (await send(server, announced(data), *chunks(data))).adapter.version.version == 1


class Full:
    """A file on a disk that is full after so many writes."""

    def __init__(self, file: Any, writes: int) -> None:
        self._file = file
        self._left = writes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> int:
        if not self._left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._left -= 1
        return int(self._file.write(chunk))


async def test_a_disk_that_is_full_in_the_middle_is_told(
    server: Served, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", buffering: int = -1, **more: Any) -> Any:
        file = opened(path, mode, buffering, **more)
        return Full(file, 3) if path.suffix == ".part" and buffering == 0 else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
    assert isinstance(error, UnavailableError)
    assert (error.field, error.value) == ("chunk", "40,000 bytes")
    assert "No space left on device" in error.message
    assert "make room" in error.fix
    assert await received(server, data) == 30_000
    done = await send(server, announced(data, offset=30_000), *chunks(data[30_000:]))
    assert done.adapter.version.version == 1


async def test_a_data_directory_that_can_not_be_written_is_told(server: Served, data: bytes) -> None:
    (server.data_dir / "uploads").write_text("in the way")
    error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
    assert isinstance(error, UnavailableError)
    assert error.field == "data_dir"
    assert "make room" in error.fix
    assert await received(server, data) == 0
    assert kept(server.data_dir).whole


def part(folder: Path, number: int, age_s: float = 0.0) -> Announced:
    """An upload that broke off so long ago."""
    what = Announced(5, f"{number:064x}")
    folder.mkdir(exist_ok=True)
    path = folder / f"{what.sha256}-{what.size_bytes}.part"
    path.write_bytes(b"12345")
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return what


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


def test_what_is_old_or_too_much_is_forgotten(folder: Path) -> None:
    kept_uploads = Uploads(folder)
    new = [part(folder, number, age_s=number) for number in range(MAX_KEPT + 3)]
    old = part(folder, 99, MAX_AGE_S + 60)
    own = part(folder, 100, MAX_AGE_S + 60)
    with kept_uploads.receiving(own, 5):
        assert kept_uploads.received(own) == 5  # it is asked for just now, however old it is
        assert kept_uploads.received(old) == 0
        assert [bool(kept_uploads.received(what)) for what in new] == [True] * (MAX_KEPT - 1) + [False] * 4


def test_what_is_on_its_way_is_never_forgotten(folder: Path) -> None:
    kept_uploads = Uploads(folder)
    first = part(folder, 1, MAX_AGE_S + 60)
    with kept_uploads.receiving(first, 5):
        os.utime(next(folder.iterdir()), (0, 0))
        with kept_uploads.receiving(Announced(5, "f" * 64), 0):
            assert kept_uploads.received(first) == 5
    with kept_uploads.receiving(Announced(5, "e" * 64), 0):
        assert kept_uploads.received(first) == 0
