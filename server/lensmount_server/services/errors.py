"""One place where every error of every RPC becomes one gRPC status.

An error of the tree goes out with field, value and fix; anything else is a defect: its
trace goes to the log under an id, the client gets the id and no trace. Messages beyond the
server's limit are refused here too, before a service sees them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from lensmount.errors import TooLargeError
from lensmount.status import to_status
from lensmount_server.defects import known

MAX_MESSAGE_BYTES = 32 << 20
# Beyond this gRPC itself refuses a message, before it is whole in memory.
TRANSPORT_BYTES = 4 * MAX_MESSAGE_BYTES

# grpc's classes are generic only in their stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler of the server."""

    async def intercept_service(  # type: ignore[override] # the stubs ask for a plain function, grpc.aio awaits it
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Return the service's handler with its errors converted."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        kind, wrap = _kind(handler)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped: Handler = make(wrap(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer)
        return wrapped


def _kind(handler: Handler) -> tuple[str, Callable[[Any], Any]]:
    streams = "stream" if handler.request_streaming else "unary"
    answers = "stream" if handler.response_streaming else "unary"
    return f"{streams}_{answers}", _wrap_stream if handler.response_streaming else _wrap_unary


def _wrap_unary(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await method(checked(request), context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line before the client
            await _abort(context, error)

    return call


def _wrap_stream(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in method(checked(request), context):
                yield response
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the last line before the client
            await _abort(context, error)

    return call


async def _abort(context: Context, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    await context.abort_with_status(rpc_status.to_status(to_status(known(error))))


def checked(request: Any) -> Any:
    """The request, or its stream, with every message held against the size limit."""
    if hasattr(request, "__aiter__"):
        return _checked_stream(request)
    _check_size(request)
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _check_size(request)
        yield request


def _check_size(request: Any) -> None:
    size = request.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        fix = f"send at most {MAX_MESSAGE_BYTES:,} bytes a message: JPEG instead of raw pixels, or a smaller picture"
        raise TooLargeError("the message is too large", field="message", value=f"{size:,} bytes", fix=fix)
