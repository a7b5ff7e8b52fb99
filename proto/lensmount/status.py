"""Errors across the wire, both ways: the exception tree to `google.rpc.Status` and back.

What the server sends: the class's status code, the error's message, one
`google.rpc.ErrorInfo` (reason: the class's name in UPPER_SNAKE, domain "lensmount",
metadata: field, value and fix where there are any) and, when a field is named, one
`google.rpc.BadRequest` with that field. What gRPC itself says (no connection, message too
large, deadline) carries no details and becomes the nearest class with a fix.

Out of scope: the traceback of a server's defect never crosses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from lensmount import errors
from lensmount.errors import LensmountError

DOMAIN = "lensmount"

# gRPC refuses more than 8 KiB of metadata; a hostile name must not turn an error into another one.
_MESSAGE_BYTES, _FIELD_BYTES = 600, 200

# What a status without our details means, and what to do: gRPC's own words name neither.
_BARE: dict[grpc.StatusCode, tuple[type[LensmountError], str, str]] = {
    grpc.StatusCode.UNAVAILABLE: (
        errors.UnavailableError,
        "does not answer",
        "start one with `lensmount serve`, or give the address where it listens",
    ),
    grpc.StatusCode.CANCELLED: (errors.UnavailableError, "ended the call", "call again; look whether it is stopping"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        errors.DeadlineError,
        "did not answer in time",
        "raise the timeout, or look at the server's load",
    ),
    grpc.StatusCode.UNIMPLEMENTED: (
        errors.UnimplementedError,
        "does not know this call",
        "use the same release on both sides; `lensmount info` tells the server's",
    ),
    grpc.StatusCode.UNKNOWN: (errors.ServerError, "failed without a reason", "look into the server's log"),
}


def to_status(error: LensmountError) -> status_pb2.Status:
    """The status with its details; `context.abort_with_status(rpc_status.to_status(…))` sends it."""
    message, field = _clip(error.message, _MESSAGE_BYTES), _clip(error.field, _FIELD_BYTES)
    facts = {"field": field, "value": _clip(error.value, _FIELD_BYTES), "fix": _clip(error.fix, _MESSAGE_BYTES)}
    status = status_pb2.Status(code=_number(error.code), message=message)
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    metadata = {name: text for name, text in facts.items() if text}
    info = error_details_pb2.ErrorInfo(reason=_reason(type(error)), domain=DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    return status


def from_rpc_error(error: grpc.RpcError, address: str = "") -> LensmountError:
    """The exception for a failed call; `address` is the server's, for messages."""
    info = _error_info(error)
    if info is None:
        return from_code(error.code(), error.details() or "", address)
    kind = _KINDS.get(info.reason) or errors.error_class(error.code())
    facts = info.metadata
    return kind(
        error.details() or "", field=facts.get("field", ""), value=facts.get("value", ""), fix=facts.get("fix", "")
    )


def from_code(code: grpc.StatusCode, details: str, address: str = "") -> LensmountError:
    """The exception for a bare status, as gRPC itself or a proxy gives it."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return _too_large(details)
    if code not in _BARE:
        return errors.error_class(code)(details or code.name)
    kind, message, fix = _BARE[code]
    return kind(f"the server at {address} {message}" if address else f"the server {message}", value=details, fix=fix)


def _too_large(details: str) -> errors.TooLargeError:
    sizes = re.search(r"\((\d+) vs\. (\d+)\)", details)
    value = f"{int(sizes[1]):,} bytes, the limit is {int(sizes[2]):,}" if sizes else details
    fix = "send smaller pictures, or JPEG instead of raw pixels; `lensmount info` shows the server's limit"
    return errors.TooLargeError("larger than one message may be", field="message", value=value, fix=fix)


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    for detail in _details(error):
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _details(error: grpc.RpcError) -> Sequence[Any]:
    try:
        status = rpc_status.from_call(cast("grpc.Call", error))
    except (ValueError, DecodeError):  # details that are damaged, or of another status than the call's
        return ()
    return status.details if status else ()


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _clip(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def _reason(kind: type[LensmountError]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()


def _tree(kind: type[LensmountError]) -> Iterator[type[LensmountError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


_KINDS = {_reason(kind): kind for kind in _tree(LensmountError)}
