"""The calls with one question and one answer, described once for both clients.

A `Unary` holds where it goes, what it sends and how the answer's bytes become a result;
the clients add only the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from lensmount import convert, results
from lensmount.errors import InvalidInputError, UnavailableError
from lensmount.pictures import Picture, infer_request
from lensmount.tasks import TaskRef, Tasks, task_refs
from lensmount.terms import rate_number
from lensmount.v1 import common_pb2, inference_pb2, sources_pb2

MessageT = TypeVar("MessageT", bound=Message)
AnswerT = TypeVar("AnswerT")

_INFERENCE = "/lensmount.v1.InferenceService/"

_POLICIES = {
    results.DropPolicy.EVERY_FRAME: common_pb2.DROP_POLICY_EVERY_FRAME,
    results.DropPolicy.NEWEST: common_pb2.DROP_POLICY_NEWEST,
}


@dataclass(frozen=True)
class Unary(Generic[AnswerT]):
    """One call: the method's full name, the request, and the reader of the answer's bytes."""

    path: str
    request: Message
    parse: Callable[[bytes], AnswerT]

    @property
    def payload(self) -> bytes:
        """The request as it goes over the wire."""
        return self.request.SerializeToString()


def parser(message: type[MessageT], read: Callable[[MessageT], AnswerT]) -> Callable[[bytes], AnswerT]:
    """Bytes to message to result."""
    return lambda data: read(message.FromString(data))


def infer(image: Picture, tasks: Tasks) -> Unary[list[results.Result]]:
    """`Infer`."""
    wire_tasks = wire_task_refs(tasks)
    request = infer_request(image)
    request.tasks.extend(wire_tasks)
    return Unary(_INFERENCE + "Infer", request, parser(inference_pb2.InferResponse, convert.infer_results))


def info() -> Unary[results.ServerInfo]:
    """`GetServerInfo`."""
    read = parser(inference_pb2.ServerInfo, convert.server_info)
    return Unary(_INFERENCE + "GetServerInfo", inference_pb2.GetServerInfoRequest(), read)


def watch_request(
    sources: Iterable[str], tasks: Iterable[str], *, with_jpeg: bool, queue_size: int
) -> sources_pb2.WatchResultsRequest:
    """What `WatchResults` is asked."""
    return sources_pb2.WatchResultsRequest(
        sources=_names(sources), tasks=_names(tasks), with_jpeg=with_jpeg, queue_size=queue_size
    )


def closed() -> UnavailableError:
    """The error of a call after `close()`."""
    return UnavailableError("this client is closed", fix="open a new one")


def not_ready(address: str, timeout: float) -> UnavailableError:
    """The error of waiting in vain."""
    fix = "start one with `lensmount serve`, or wait longer"
    return UnavailableError(f"no server at {address} after {timeout:g} s", fix=fix)


def wire_task_ref(ref: TaskRef) -> common_pb2.TaskRef:
    """A task as the wire says it; a pinned version needs no alias."""
    alias = "" if ref.version else ref.alias
    version, max_fps = version_number("tasks", ref.version), rate_number(ref.max_fps)
    return common_pb2.TaskRef(task=ref.task, alias=alias, version=version, max_fps=max_fps)


def wire_task_refs(tasks: Tasks) -> list[common_pb2.TaskRef]:
    """The tasks of a request."""
    return [wire_task_ref(ref) for ref in task_refs(tasks)]


def wire_policy(policy: str) -> common_pb2.DropPolicy.ValueType:
    """A drop policy by its name."""
    if policy not in _POLICIES:
        fix = f"one of {', '.join(_POLICIES)}"
        raise InvalidInputError("no such drop policy", field="drop_policy", value=policy, fix=fix)
    return _POLICIES[results.DropPolicy(policy)]


def _names(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def version_number(field: str, number: int) -> int:
    """A version number that the wire can carry."""
    if not 0 <= number < 2**32:
        fix = "`lensmount adapters list` shows the versions"
        raise InvalidInputError("a version is a whole number from 1", field=field, value=number, fix=fix)
    return number
