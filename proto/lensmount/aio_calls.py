"""Waiting for gRPC's asyncio calls: their answers, their errors, and what cancelled them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

import grpc
import grpc.aio

from lensmount.errors import LensmountError
from lensmount.status import from_code, from_rpc_error

T = TypeVar("T")

AnsweredCall = grpc.aio.UnaryUnaryCall[Any, T] | grpc.aio.StreamUnaryCall[Any, T]
OutgoingCall = grpc.aio.StreamUnaryCall[T, Any] | grpc.aio.StreamStreamCall[T, Any]
IncomingCall = grpc.aio.UnaryStreamCall[Any, T] | grpc.aio.StreamStreamCall[Any, T]


async def answer(call: AnsweredCall[T], address: str) -> T:
    """The answer of a call; a LensmountError when it failed."""
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error, address) from error
    except asyncio.CancelledError:
        if being_cancelled():
            raise
        raise await cancelled_by_server(call, address) from None


def being_cancelled() -> bool:
    """Whether a CancelledError is this task's own; gRPC also raises it when the other side cancels a call."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def cancelled_by_server(call: grpc.aio.Call, address: str) -> LensmountError:
    """The error of a call that the other side cancelled."""
    return from_code(await call.code(), await call.details(), address)


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
