"""Streaming calls of the blocking client: iterators that own their call."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from lensmount import convert
from lensmount.accounts import StreamAccount, WatchAccount
from lensmount.feed import Item, Pacer, Packer
from lensmount.results import AdapterEvent, Result
from lensmount.sources import Source
from lensmount.status import from_rpc_error
from lensmount.v1 import adapters_pb2, inference_pb2, sources_pb2

MessageT = TypeVar("MessageT")
MessageT_co = TypeVar("MessageT_co", covariant=True)
ItemT = TypeVar("ItemT")


class IncomingCall(Protocol[MessageT_co]):
    """What gRPC returns for a call whose answers stream in."""

    def __next__(self) -> MessageT_co: ...

    def cancel(self) -> bool:
        """End it; whether it was still running."""
        ...


class BeginningCall(IncomingCall[MessageT_co], Protocol[MessageT_co]):
    """A call that says when it has begun."""

    def initial_metadata(self) -> object:
        """Wait until the server has taken it, or it has ended."""
        ...


OpenStream = Callable[[Iterator[inference_pb2.StreamInferRequest]], IncomingCall[inference_pb2.StreamInferResponse]]


class Guarded(Iterator[MessageT]):
    """Messages on their way out, read by a thread of gRPC's.

    When their source raises, they end there: the server answers what it has, and
    `error` is for the reader to raise.
    """

    def __init__(self, messages: Iterator[MessageT]) -> None:
        self._messages = messages
        self.error: Exception | None = None

    def release(self) -> None:
        """Send no more, and let go of the source."""
        self._messages = iter(())

    def __next__(self) -> MessageT:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - it comes from the caller's iterable and is raised in the caller's thread
            self.error = error
            raise StopIteration from None


class Incoming(Iterator[ItemT], Generic[MessageT, ItemT]):
    """A stream's answers, one pass.

    Nothing is sent before the first one is asked for. Leaving a `for` loop over it early,
    `close()`, or the end of a `with` block cancels the call.
    """

    _call: IncomingCall[MessageT] | None = None
    _closed = False

    def __init__(self, address: str) -> None:
        self._address = address

    def __iter__(self) -> Iterator[ItemT]:  # noqa: PYI034 - a loop that is left early ends the call
        try:
            while (item := next(self, None)) is not None:
                yield item
        finally:
            self.close()

    def __next__(self) -> ItemT:
        while not self._closed:
            item = self._take(self._receive())
            if item is not None:
                return item
        raise StopIteration

    def close(self) -> None:
        """End the call; further answers are not delivered."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> MessageT:
        if self._call is None:
            self._call = self._start()
        try:
            return next(self._call)
        except StopIteration:
            self._end(None)
            raise
        except grpc.RpcError as error:
            self._end(error)
            raise StopIteration from None

    def _end(self, error: grpc.RpcError | None) -> None:
        """Close, and raise what the stream died of; nothing when it ended by itself or was closed before."""
        closed_before = self._closed
        self.close()
        if closed_before:
            return
        if (own := self._sending_error()) is not None:
            raise own
        if error is not None:
            raise from_rpc_error(error, self._address) from error

    def _sending_error(self) -> Exception | None:
        return None

    @abstractmethod
    def _start(self) -> IncomingCall[MessageT]:
        """Make the call."""

    @abstractmethod
    def _take(self, message: MessageT) -> ItemT | None:
        """Account for a message; what it holds for the reader."""


class Stream(StreamAccount, Incoming[inference_pb2.StreamInferResponse, Result]):
    """Results of a pushed video as they come."""

    def __init__(
        self, open_call: OpenStream, items: Iterable[Item], packer: Packer, *, realtime: bool, address: str
    ) -> None:
        super().__init__(address)
        self._open_call = open_call
        self._stopped = threading.Event()
        messages = _messages(items, packer)
        self._outgoing = Guarded(_paced(messages, self._stopped) if realtime else messages)

    def close(self) -> None:
        """End the call; the server stops decoding."""
        self._stopped.set()
        self._outgoing.release()
        super().close()

    def _start(self) -> IncomingCall[inference_pb2.StreamInferResponse]:
        first = next(self._outgoing, None)
        if first is None:  # the source failed before there was anything to send
            self._end(None)
            raise StopIteration
        return self._open_call(chain([first], self._outgoing))

    def _sending_error(self) -> Exception | None:
        return self._outgoing.error


class Watch(WatchAccount, Incoming[sources_pb2.WatchResultsResponse, Result | Source]):
    """Results of sources, and sources whose state changed, as they come."""

    def __init__(self, open_call: Callable[[], IncomingCall[sources_pb2.WatchResultsResponse]], address: str) -> None:
        super().__init__(address)
        self._open_call = open_call

    def _start(self) -> IncomingCall[sources_pb2.WatchResultsResponse]:
        return self._open_call()


class AdapterWatch(Incoming[adapters_pb2.AdapterEvent, AdapterEvent]):
    """What happens to adapter versions, as it happens; nothing is missed from the beginning of a `with` block on."""

    def __init__(self, open_call: Callable[[], BeginningCall[adapters_pb2.AdapterEvent]], address: str) -> None:
        super().__init__(address)
        self._open_call = open_call

    def __enter__(self) -> Self:
        """Wait until the server tells; where it does not, the first event says why."""
        self._call = call = self._open_call()
        call.initial_metadata()
        return self

    def _start(self) -> IncomingCall[adapters_pb2.AdapterEvent]:
        return self._open_call()

    def _take(self, message: adapters_pb2.AdapterEvent) -> AdapterEvent | None:
        return convert.adapter_event(message)


def _messages(items: Iterable[Item], packer: Packer) -> Iterator[inference_pb2.StreamInferRequest]:
    for item in items:
        yield from packer.pack(item)
    packer.finish()


def _paced(
    messages: Iterator[inference_pb2.StreamInferRequest], stopped: threading.Event
) -> Iterator[inference_pb2.StreamInferRequest]:
    pacer = Pacer()
    for message in messages:
        if stopped.wait(pacer.delay_s(message, time.monotonic())):
            return
        yield message
