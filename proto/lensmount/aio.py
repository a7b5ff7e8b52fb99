"""The asyncio client: the calls of `lensmount.client`, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
import grpc.aio

from lensmount import calls, results, source_calls
from lensmount.aio_adapter_methods import AsyncAdapterMethods
from lensmount.aio_calls import Ending, answer, in_thread
from lensmount.aio_streams import AsyncStream, AsyncWatch, StreamCall
from lensmount.calls import Unary
from lensmount.channel import CHANNEL_OPTIONS, DEFAULT_ADDRESS, Metadata, who
from lensmount.errors import DeadlineError
from lensmount.feed import Item, Packer, items, stream_config
from lensmount.pictures import Picture
from lensmount.sources import Source, SourceChanges, SourceOptions
from lensmount.tasks import Tasks
from lensmount.v1.inference_pb2_grpc import InferenceServiceStub
from lensmount.v1.sources_pb2_grpc import SourceServiceStub

AnswerT = TypeVar("AnswerT")


class AsyncClient(AsyncAdapterMethods):
    """A connection to a lensmount server for asyncio; use it in an `async with` block, or close it.

    The methods, their arguments and their errors are those of `lensmount.Client`. It belongs
    to the event loop of its first call.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout: float | None = 60.0, actor: str | None = None
    ) -> None:
        self.address = address
        self._caller = who(actor)
        self._timeout = timeout
        self._open_channel: grpc.aio.Channel | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; streams still open end."""
        self._closed = True
        if self._open_channel is not None:
            await self._open_channel.close()

    async def infer(
        self,
        image: Picture,
        tasks: Tasks,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a gRPC deadline, which the server is told
    ) -> list[results.Result]:
        """One picture, one result per task in the order asked."""
        return await self._unary(await asyncio.to_thread(calls.infer, image, tasks), limit_s=timeout)

    def stream(  # noqa: PLR0913 - everything that can be said of a stream, by keyword
        self,
        frames_or_path: str | os.PathLike[str] | Iterable[Item] | AsyncIterable[Item],
        tasks: Tasks,
        *,
        name: str = "",
        drop_policy: str = "every_frame",
        realtime: bool = False,
        with_jpeg: bool = False,
        fps: float = 25.0,
        deadline_ms: int = 0,
        priority: int = 0,
    ) -> AsyncStream:
        """Push a video; iterate over the `AsyncStream` for its results.

        The iterable may also be an asynchronous one; any other is read in worker threads.
        """
        config = stream_config(
            tasks,
            name=name,
            drop_policy=drop_policy,
            with_jpeg=with_jpeg,
            deadline_ms=deadline_ms,
            priority=priority,
        )
        packer = Packer(config, fps)
        video = frames_or_path if isinstance(frames_or_path, AsyncIterable) else in_thread(items(frames_or_path, fps))
        return AsyncStream(self._open_stream, video, packer, realtime=realtime, address=self.address)

    async def add_source(self, name: str, url: str, tasks: Tasks, **options: Unpack[SourceOptions]) -> Source:
        """Have the server pull a video; `lensmount.Client.add_source` tells of addresses and options."""
        return await self._unary(source_calls.add_source(name, url, tasks, options))

    async def update_source(self, name: str, **changes: Unpack[SourceChanges]) -> Source:
        """Change a source while it runs: `url`, `tasks` or any option; what is not given stays as it is."""
        return await self._unary(source_calls.update_source(name, changes))

    async def pause_source(self, name: str) -> Source:
        """Stop pulling a source, and keep it with its account."""
        return await self._unary(source_calls.pause_source(name))

    async def resume_source(self, name: str) -> Source:
        """Pull a paused source again."""
        return await self._unary(source_calls.resume_source(name))

    async def remove_source(self, name: str) -> None:
        """Stop pulling a source and forget it."""
        await self._unary(source_calls.remove_source(name))

    async def sources(self) -> list[Source]:
        """All sources with their states."""
        return await self._unary(source_calls.sources())

    async def source(self, name: str) -> Source:
        """One source with its state."""
        return await self._unary(source_calls.source(name))

    def watch(
        self,
        sources: Iterable[str] = (),
        tasks: Iterable[str] = (),
        *,
        with_jpeg: bool = False,
        queue_size: int = 0,
    ) -> AsyncWatch:
        """Results of these sources and tasks (all when empty), and sources whose state changed."""
        request = calls.watch_request(sources, tasks, with_jpeg=with_jpeg, queue_size=queue_size)
        return AsyncWatch(lambda: SourceServiceStub(self._channel).WatchResults(request), self.address)

    async def info(self) -> results.ServerInfo:
        """What the server runs on, and how much it has run."""
        return await self._unary(calls.info())

    async def wait_ready(self, timeout: float = 30.0) -> results.ServerInfo:  # noqa: ASYNC109 - as above
        """Wait until a server answers, for so many seconds; UnavailableError when none does."""
        try:
            return await self._unary(calls.info(), limit_s=timeout, wait_for_ready=True)
        except DeadlineError as error:
            raise calls.not_ready(self.address, timeout) from error

    @property
    def _metadata(self) -> Metadata:
        return self._caller

    @property
    def _channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise calls.closed()
        if self._open_channel is None:
            self._open_channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        return self._open_channel

    def _open_stream(self) -> StreamCall:
        return InferenceServiceStub(self._channel).StreamInfer()

    async def _unary(
        self, call: Unary[AnswerT], *, limit_s: float | None = None, wait_for_ready: bool | None = None
    ) -> AnswerT:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(call.path)
        pending = method(
            call.payload, timeout=limit_s or self._timeout, wait_for_ready=wait_for_ready, metadata=self._caller
        )
        return call.parse(await answer(pending, Ending(pending, self.address)))
