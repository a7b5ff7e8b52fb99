"""Raw calls about adapter versions of a real server, and streams that are asked frame by frame."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from factories import pictures
from lensmount.archive import open_archive
from lensmount.errors import LensmountError
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2
from serving import PATIENCE_S, Feed, Served, StreamCall, Version, message, raw_frame, read, told

Request = adapters_pb2.RegisterAdapterRequest
Ref = common_pb2.TaskRef

SHOT = pictures(1, seed=9)[0]


def packed(folder: Path) -> bytes:
    """A package as it is sent."""
    with open_archive(folder) as archive:
        return archive.file.read()


async def upload(requests: Iterable[Request]) -> AsyncIterator[Request]:
    """The requests of a call."""
    for request in requests:
        yield request


def announced(data: bytes, **changes: object) -> Request:
    """The header for an archive, with some of it changed."""
    header = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    return Request(header=adapters_pb2.RegisterAdapterHeader(**header))  # type: ignore[arg-type]


def chunks(data: bytes, size: int = 10_000) -> list[Request]:
    """An archive in pieces."""
    return [Request(chunk=data[at : at + size]) for at in range(0, len(data), size)]


async def register(
    server: Served, version: Version, alias: str = "", **header: object
) -> adapters_pb2.RegisterAdapterResponse:
    """Send a package."""
    data = packed(version.folder)
    return await server.adapters.RegisterAdapter(upload([announced(data, set_alias=alias, **header), *chunks(data)]))


async def promote(server: Served, version: int, alias: str = "live", **more: Any) -> adapters_pb2.SetAliasResponse:
    """Point an alias of `defect` at a version."""
    return await server.adapters.SetAlias(
        adapters_pb2.SetAliasRequest(task="defect", version=version, alias=alias, **more)
    )


async def roll_back(server: Served, **more: Any) -> adapters_pb2.SetAliasResponse:
    """Point an alias of `defect` back."""
    return await server.adapters.Rollback(adapters_pb2.RollbackRequest(task="defect", **more))


async def events(server: Served, task: str = "", alias: str = "") -> list[adapters_pb2.AdapterEvent]:
    """The newest page of the journal, oldest first."""
    found = await server.adapters.ListEvents(adapters_pb2.ListEventsRequest(task=task, alias=alias))
    return list(reversed(found.events))


class Asking:
    """A pushed stream that is asked one frame at a time."""

    def __init__(self, call: StreamCall, feed: Feed, tasks: int) -> None:
        self._call = call
        self._feed = feed
        self._tasks = tasks

    async def ask(self) -> list[common_pb2.Result]:
        """What one more frame is answered, by task."""
        self._feed.send(message(raw_frame(SHOT)))
        return [(await read(self._call)).result for _ in range(self._tasks)]

    async def version(self) -> int:
        """The version that answers one more frame, for a stream of one task."""
        (result,) = await self.ask()
        return result.adapter.version

    async def error(self) -> LensmountError:
        """What one more frame ends the stream with."""
        self._feed.send(message(raw_frame(SHOT)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(self._call.read(), PATIENCE_S)
        return told(caught.value)


@asynccontextmanager
async def asking(server: Served, *tasks: Ref) -> AsyncIterator[Asking]:
    """An open stream for these tasks, cancelled at the end."""
    feed = Feed(message(inference_pb2.StreamConfig(codec=inference_pb2.CODEC_RAW, tasks=tasks)))
    call = server.inference.StreamInfer(feed)
    try:
        assert (await read(call)).HasField("started")
        yield Asking(call, feed, len(tasks))
    finally:
        call.cancel()
