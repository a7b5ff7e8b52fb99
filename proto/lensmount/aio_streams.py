"""Streaming calls of the asyncio client: asynchronous iterators that own their call."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc

from lensmount import convert
from lensmount.accounts import StreamAccount, WatchAccount
from lensmount.aio_calls import Ending, IncomingCall, being_cancelled, send
from lensmount.errors import LensmountError
from lensmount.feed import Item, Pacer, Packer
from lensmount.results import AdapterEvent, Result
from lensmount.sources import Source
from lensmount.v1 import adapters_pb2, inference_pb2, sources_pb2

MessageT = TypeVar("MessageT")
ItemT = TypeVar("ItemT")

StreamCall = grpc.aio.StreamStreamCall[inference_pb2.StreamInferRequest, inference_pb2.StreamInferResponse]
WatchCall = grpc.aio.UnaryStreamCall[sources_pb2.WatchResultsRequest, sources_pb2.WatchResultsResponse]
AdapterWatchCall = grpc.aio.UnaryStreamCall[adapters_pb2.WatchAdaptersRequest, adapters_pb2.AdapterEvent]


class AsyncIncoming(AsyncIterator[ItemT], Generic[MessageT, ItemT]):
    """A stream's answers, one pass.

    Nothing is sent before the first one is asked for. Leaving an `async for` loop over it
    early, `close()`, or the end of an `async with` block cancels the call.
    """

    _call: IncomingCall[MessageT] | None = None
    _ending: Ending
    _answers: AsyncIterator[MessageT]
    _closed = False

    def __init__(self, address: str) -> None:
        self._address = address

    def __aiter__(self) -> AsyncIterator[ItemT]:  # noqa: PYI034 - a loop that is left early ends the call
        return self._until_left()

    async def _until_left(self) -> AsyncIterator[ItemT]:
        try:
            while (item := await anext(self, None)) is not None:
                yield item
        finally:
            await self.close()

    async def __anext__(self) -> ItemT:
        while not self._closed:
            item = self._take(await self._receive())
            if item is not None:
                return item
        raise StopAsyncIteration

    async def close(self) -> None:
        """End the call; further answers are not delivered."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _receive(self) -> MessageT:
        if self._call is None:
            self._call = await self._begin()
        try:
            return await anext(self._answers)
        except StopAsyncIteration:
            await self._end(None)
        except grpc.RpcError as error:
            await self._end(await self._ending.error(error))
        except asyncio.CancelledError:
            if being_cancelled():
                await self.close()
                raise
            await self._end(await self._ending.cancelled())
        raise StopAsyncIteration

    async def _begin(self) -> IncomingCall[MessageT]:
        call = await self._start()
        self._ending = Ending(call, self._address)
        self._answers = aiter(call)
        return call

    async def _end(self, error: LensmountError | None) -> None:
        """Close, and raise what the stream died of; nothing when it ended by itself or was closed before."""
        closed_before = self._closed
        await self.close()
        reason = self._sending_error() or error
        if reason is not None and not closed_before:
            raise reason

    def _sending_error(self) -> Exception | None:
        return None

    @abstractmethod
    async def _start(self) -> IncomingCall[MessageT]:
        """Make the call."""

    @abstractmethod
    def _take(self, message: MessageT) -> ItemT | None:
        """Account for a message; what it holds for the reader."""


class AsyncStream(StreamAccount, AsyncIncoming[inference_pb2.StreamInferResponse, Result]):
    """Results of a pushed video as they come."""

    def __init__(
        self,
        open_call: Callable[[], StreamCall],
        items: AsyncIterable[Item],
        packer: Packer,
        *,
        realtime: bool,
        address: str,
    ) -> None:
        super().__init__(address)
        self._open_call = open_call
        self._outgoing = _messages(items, packer, Pacer() if realtime else None)
        self._sender: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def close(self) -> None:
        """End the call; the server stops decoding."""
        await super().close()
        sender, self._sender = self._sender, None  # a cancelled task holds its frames, and they the video
        if sender is not None:
            sender.cancel()
            await asyncio.wait([sender])

    async def _start(self) -> IncomingCall[inference_pb2.StreamInferResponse]:
        first = await anext(self._outgoing)
        call = self._open_call()
        self._sender = asyncio.create_task(self._send(call, first))
        return call

    async def _send(self, call: StreamCall, first: inference_pb2.StreamInferRequest) -> None:
        async with aclosing(self._outgoing) as rest:
            await send(call, self._guarded(first, rest))

    async def _guarded(
        self, first: inference_pb2.StreamInferRequest, rest: AsyncIterator[inference_pb2.StreamInferRequest]
    ) -> AsyncIterator[inference_pb2.StreamInferRequest]:
        """All messages; when their source raises they end there, and the reader raises it after the last answer."""
        yield first
        try:
            async for message in rest:
                yield message
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises belongs to the reader
            self._failure = error

    def _sending_error(self) -> Exception | None:
        return self._failure


class AsyncWatch(WatchAccount, AsyncIncoming[sources_pb2.WatchResultsResponse, Result | Source]):
    """Results of sources, and sources whose state changed, as they come."""

    def __init__(self, open_call: Callable[[], WatchCall], address: str) -> None:
        super().__init__(address)
        self._open_call = open_call

    async def _start(self) -> IncomingCall[sources_pb2.WatchResultsResponse]:
        return self._open_call()


class AsyncAdapterWatch(AsyncIncoming[adapters_pb2.AdapterEvent, AdapterEvent]):
    """What happens to adapter versions, as it happens; nothing is missed from the beginning of an `async with` on."""

    def __init__(self, open_call: Callable[[], AdapterWatchCall], address: str) -> None:
        super().__init__(address)
        self._open_call = open_call

    async def __aenter__(self) -> Self:
        """Wait until the server tells; where it does not, the first event says why."""
        self._call = await self._begin()
        await self._call.initial_metadata()
        return self

    async def _start(self) -> IncomingCall[adapters_pb2.AdapterEvent]:
        return self._open_call()

    def _take(self, message: adapters_pb2.AdapterEvent) -> AdapterEvent | None:
        return convert.adapter_event(message)


async def _messages(
    items: AsyncIterable[Item], packer: Packer, pacer: Pacer | None
) -> AsyncGenerator[inference_pb2.StreamInferRequest, None]:
    async for item in items:
        for message in packer.pack(item):
            if pacer is not None:
                await asyncio.sleep(pacer.delay_s(message, time.monotonic()))
            yield message
    packer.finish()
