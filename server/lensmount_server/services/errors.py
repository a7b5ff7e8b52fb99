"""One place where every error of every RPC becomes one gRPC status.

An error of the tree goes out with field, value and fix; anything else is a defect: its
trace goes to the log under an id, the client gets the id and no trace. Messages beyond the
server's limit, and bytes that are no message, are refused here too, before a service sees
them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount.status import to_status
from lensmount_server.defects import known

MAX_MESSAGE_BYTES = 32 << 20
# Beyond this gRPC itself refuses a message, before it is whole in memory.
TRANSPORT_BYTES = 4 * MAX_MESSAGE_BYTES

# grpc's classes are generic only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"
Coroutine: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Generator: TypeAlias = Callable[[Any, Any], AsyncGenerator[Any, None]]
Take: TypeAlias = Callable[[Any], Any]
Tell: TypeAlias = Callable[[LensmountError], Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server; `tell` makes the status of an error for services that say it their own way."""

    def __init__(self, tell: Mapping[str, Tell] | None = None) -> None:
        self._tell = tell or {}
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(  # type: ignore[override] # the stubs ask for a plain function, grpc.aio awaits it
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Return the service's handler with its errors converted."""
        name = handler_call_details.method
        wrapped = self._wrapped.get(name)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            wrapped = self._wrapped[name] = _wrap(handler, self._tell.get(name.split("/")[1], to_status))
        return wrapped


def _wrap(handler: Handler, tell: Tell) -> Handler:
    kind = _kind(handler)
    method = getattr(handler, kind)
    wrap = _wrap_generator if inspect.isasyncgenfunction(method) else _wrap_coroutine
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    read = _reader(handler.request_deserializer) if handler.request_deserializer else None
    take = _all_taken if handler.request_streaming else _taken
    wrapped: Handler = make(wrap(method, take, tell), read, handler.response_serializer)
    return wrapped


def _kind(handler: Handler) -> str:
    streams = "stream" if handler.request_streaming else "unary"
    answers = "stream" if handler.response_streaming else "unary"
    return f"{streams}_{answers}"


def _wrap_coroutine(method: Coroutine, take: Take, tell: Tell) -> Coroutine:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await method(take(request), context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line before the client
            await _abort(context, error, tell)

    return call


def _wrap_generator(
    method: Callable[[Any, Any], AsyncGenerator[Any, None]], take: Take, tell: Tell
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async with aclosing(method(take(request), context)) as responses:
                async for response in responses:
                    yield response
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line before the client
            await _abort(context, error, tell)

    return call


async def _abort(context: Context, error: Exception, tell: Tell) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await context.abort_with_status(rpc_status.to_status(tell(known(error))))


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Reads a message, or returns the error that it is: what is raised here would reach the client as gRPC's own."""

    def read(data: bytes) -> Any:
        if len(data) > MAX_MESSAGE_BYTES:
            fix = (
                f"send at most {MAX_MESSAGE_BYTES:,} bytes a message: JPEG instead of raw pixels, or a smaller picture"
            )
            return TooLargeError("the message is too large", field="message", value=_size(data), fix=fix)
        try:
            return deserialize(data)
        except DecodeError:
            fix = "use the same release on both sides, and the message that this call takes"
            return InvalidInputError("not a message of this call", field="message", value=_size(data), fix=fix)

    return read


def _size(data: bytes) -> str:
    return f"{len(data):,} bytes"


def _taken(request: Any) -> Any:
    """A request as it was read; raises the error that stands in its place."""
    if isinstance(request, LensmountError):
        raise request
    return request


async def _all_taken(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same of a stream."""
    async for request in requests:
        yield _taken(request)
