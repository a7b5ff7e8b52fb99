"""Waiting for gRPC's asyncio calls: their answers, their errors, and what cancelled them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

import grpc
import grpc.aio

from lensmount.errors import LensmountError
from lensmount.status import from_code, from_rpc_error

T = TypeVar("T")

AnsweredCall = grpc.aio.UnaryUnaryCall[Any, T] | grpc.aio.StreamUnaryCall[Any, T]
OutgoingCall = grpc.aio.StreamUnaryCall[T, Any] | grpc.aio.StreamStreamCall[T, Any]
IncomingCall = grpc.aio.UnaryStreamCall[Any, T] | grpc.aio.StreamStreamCall[Any, T]


# What grpc.aio says instead of the server, and how long to look for the server's own word.
_OVERWRITTEN = "Internal error from Core"
_LOOKS, _LOOK_S = 100, 0.01


class Ending:
    """How a call ended.

    When a write fails because the server has ended the call, grpc.aio puts a status of its own in
    the place of the server's, before or after that one arrives: a refusal would be told as
    "Internal error from Core" (https://github.com/grpc/grpc/issues/36066). So the status is noted
    the moment the call is done, and looked up again when the error is raised.
    """

    def __init__(self, call: grpc.aio.Call, address: str) -> None:
        self._call = call
        self._address = address
        self._noted: grpc.RpcError | None = None
        call.add_done_callback(self._note)

    async def error(self, raised: grpc.RpcError) -> LensmountError | None:
        """What the call died of, given what gRPC raised; None when it had ended well."""
        status = await self.status(raised)
        return None if status.code() is grpc.StatusCode.OK else from_rpc_error(status, self._address)

    async def status(self, raised: grpc.RpcError) -> grpc.RpcError:
        """The server's own status where it came; else what gRPC raised."""
        for _ in range(_LOOKS):
            for status in (self._noted, raised, _status(self._call)):
                if status is not None and status.details() != _OVERWRITTEN:
                    return status
            await asyncio.sleep(_LOOK_S)
        return raised

    async def cancelled(self) -> LensmountError:
        """The error of a call that was cancelled, but not by its task."""
        return from_code(await self._call.code(), await self._call.details(), self._address)

    def _note(self, call: grpc.aio.Call) -> None:
        self._noted = _status(call)


def _status(call: grpc.aio.Call) -> grpc.RpcError:
    code, details, trailing = _at_once(call.code()), _at_once(call.details()), _at_once(call.trailing_metadata())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


def _at_once(told: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that has nothing to wait for: a call that is done knows its status."""
    try:
        told.send(None)
    except StopIteration as returned:
        answer: T = returned.value
        return answer
    raise RuntimeError("the call is not done")


async def answer(call: AnsweredCall[T], ending: Ending) -> T:
    """The answer of a call; a LensmountError when it failed."""
    try:
        return await call
    except grpc.RpcError as error:
        raise (await ending.error(error) or from_rpc_error(error)) from error
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        raise await ending.cancelled() from None


def being_cancelled() -> bool:
    """Whether a CancelledError is this task's own; gRPC also raises it when the channel is closed under a call."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def send(call: OutgoingCall[T], messages: AsyncIterator[T]) -> None:
    """Write every message, and that there are no more; stops when the call is over, its status says why."""
    try:
        async for message in messages:
            await call.write(message)
        await call.done_writing()
    except (asyncio.InvalidStateError, grpc.RpcError):
        return


async def in_thread(items: Iterable[T]) -> AsyncIterator[T]:
    """The items of an iterable that may block, each fetched in a worker thread."""
    iterator, end = iter(items), object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:
        yield item  # type: ignore[misc]
