"""The calls of sources that ask and answer once, described once for both clients.

Options of a source are keywords for the caller and fields of a message on the wire; one table knows both. What the
wire can not carry is refused here, what a server can not do by the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any, TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from lensmount import source_convert
from lensmount.calls import Unary, parser, wire_policy, wire_task_refs
from lensmount.errors import InvalidInputError
from lensmount.sources import DecodeEffort, Pace, Region, Source, SourceChanges, SourceOptions, Transport
from lensmount.tasks import Tasks
from lensmount.terms import deadline_number, priority_number
from lensmount.v1 import sources_pb2
from lensmount.v1.sources_pb2 import MotionGate, Reconnect, SourceConfig

NumberT = TypeVar("NumberT", bound=int)

_SERVICE = "/lensmount.v1.SourceService/"
_MAX_WHOLE = 2**32 - 1

_TRANSPORTS = {each: sources_pb2.Transport.Value(f"TRANSPORT_{each.name}") for each in Transport}
_PACES = {each: sources_pb2.Pace.Value(f"PACE_{each.name}") for each in Pace}
_EFFORTS = {each: sources_pb2.DecodeEffort.Value(f"DECODE_EFFORT_{each.name}") for each in DecodeEffort}


@dataclass(frozen=True)
class _Option:
    """A keyword's field in SourceConfig, and a configuration that says nothing else."""

    path: str
    said: Callable[[Any], SourceConfig]


_OPTIONS: Mapping[str, _Option] = {
    "url": _Option("url", lambda url: SourceConfig(url=url)),
    "tasks": _Option("tasks", lambda tasks: SourceConfig(tasks=wire_task_refs(tasks))),
    "loop": _Option("loop", lambda loop: SourceConfig(loop=loop)),
    "drop_policy": _Option("drop_policy", lambda policy: SourceConfig(drop_policy=wire_policy(policy))),
    "deadline_ms": _Option("deadline_ms", lambda ms: SourceConfig(deadline_ms=deadline_number(ms))),
    "priority": _Option("priority", lambda priority: SourceConfig(priority=priority_number(priority))),
    "transport": _Option(
        "transport", lambda name: SourceConfig(transport=_choice("transport", name, Transport, _TRANSPORTS))
    ),
    "pace": _Option("pace", lambda name: SourceConfig(pace=_choice("pace", name, Pace, _PACES))),
    "decode_effort": _Option(
        "decode_effort", lambda name: SourceConfig(decode_effort=_choice("decode_effort", name, DecodeEffort, _EFFORTS))
    ),
    "rotation": _Option("rotation", lambda turn: SourceConfig(rotation=_whole("rotation", turn))),
    "region": _Option("region", lambda region: SourceConfig(region=_region(region))),
    "queue_size": _Option("queue_size", lambda size: SourceConfig(queue_size=_whole("queue_size", size))),
    "gate": _Option("gate.change", lambda change: SourceConfig(gate=MotionGate(change=_share("gate", change)))),
    "gate_refresh_ms": _Option(
        "gate.refresh_ms", lambda ms: SourceConfig(gate=MotionGate(refresh_ms=_whole("gate_refresh_ms", ms)))
    ),
    "reconnect_first_ms": _Option(
        "reconnect.first_ms", lambda ms: SourceConfig(reconnect=Reconnect(first_ms=_whole("reconnect_first_ms", ms)))
    ),
    "reconnect_longest_ms": _Option(
        "reconnect.longest_ms",
        lambda ms: SourceConfig(reconnect=Reconnect(longest_ms=_whole("reconnect_longest_ms", ms))),
    ),
    "paused": _Option("paused", lambda paused: SourceConfig(paused=paused)),
}


def add_source(name: str, url: str, tasks: Tasks, options: SourceOptions) -> Unary[Source]:
    """`AddSource`; InvalidInputError for an option that is none, or whose value can not be."""
    config, _ = _told(name, {"url": url, "tasks": tasks, **options})
    return _source_call("AddSource", sources_pb2.AddSourceRequest(source=config))


def update_source(name: str, changes: SourceChanges) -> Unary[Source]:
    """`UpdateSource` of what is given and of nothing else; InvalidInputError as `add_source`."""
    if not changes:
        fix = "give what shall change, for example deadline_ms=200"
        raise InvalidInputError("nothing to change", field="source", value=name, fix=fix)
    config, paths = _told(name, changes)
    request = sources_pb2.UpdateSourceRequest(source=config, update_mask=FieldMask(paths=paths))
    return _source_call("UpdateSource", request)


def pause_source(name: str) -> Unary[Source]:
    """`PauseSource`."""
    return _source_call("PauseSource", sources_pb2.PauseSourceRequest(name=name))


def resume_source(name: str) -> Unary[Source]:
    """`ResumeSource`."""
    return _source_call("ResumeSource", sources_pb2.ResumeSourceRequest(name=name))


def remove_source(name: str) -> Unary[None]:
    """`RemoveSource`."""
    request = sources_pb2.RemoveSourceRequest(name=name)
    return Unary(_SERVICE + "RemoveSource", request, parser(sources_pb2.RemoveSourceResponse, lambda _: None))


def sources() -> Unary[list[Source]]:
    """`ListSources`."""
    read = parser(sources_pb2.ListSourcesResponse, source_convert.source_list)
    return Unary(_SERVICE + "ListSources", sources_pb2.ListSourcesRequest(), read)


def source(name: str) -> Unary[Source]:
    """`GetSource`."""
    return _source_call("GetSource", sources_pb2.GetSourceRequest(name=name))


def _source_call(method: str, request: Message) -> Unary[Source]:
    return Unary(_SERVICE + method, request, parser(sources_pb2.Source, source_convert.source))


def _told(name: str, options: Mapping[str, object]) -> tuple[SourceConfig, list[str]]:
    """A configuration that says these options, and the paths of their fields."""
    config = SourceConfig(name=name)
    for option, value in options.items():
        if option not in _OPTIONS:
            fix = f"use {', '.join(_OPTIONS)}"
            raise InvalidInputError("no such option of a source", field=option, value=value, fix=fix)
        config.MergeFrom(_OPTIONS[option].said(value))
    return config, [_OPTIONS[option].path for option in options]


def _choice(field: str, name: str, known: type[StrEnum], numbers: Mapping[Any, NumberT]) -> NumberT:
    if name not in list(known):
        raise InvalidInputError("no such choice", field=field, value=name, fix=f"one of {', '.join(known)}")
    return numbers[known(name)]


def _whole(field: str, number: int) -> int:
    if not isinstance(number, int) or not 0 <= number <= _MAX_WHOLE:
        fix = "give a whole number from 0, which stands for the default"
        raise InvalidInputError("not a number that it can be", field=field, value=number, fix=fix)
    return number


def _share(field: str, share: float) -> float:
    if not isinstance(share, int | float) or not isfinite(share):
        raise InvalidInputError("not a share", field=field, value=share, fix="give a number from 0 to 1")
    return share


def _region(region: Region | tuple[float, float, float, float] | None) -> sources_pb2.Region | None:
    if region is None:
        return None
    sides = tuple(region) if isinstance(region, tuple | list) else ()
    if len(sides) != 4:
        fix = "give (left, top, width, height) in shares of the picture; its lower half is (0, 0.5, 1, 0.5)"
        raise InvalidInputError("not a region", field="region", value=region, fix=fix)
    left, top, width, height = (_share("region", side) for side in sides)
    return sources_pb2.Region(left=left, top=top, width=width, height=height)
