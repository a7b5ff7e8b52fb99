"""Between a source on the wire and the server's own: what it is told to be, how it is doing, a change of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

from google.protobuf.field_mask_pb2 import FieldMask

from lensmount.errors import InvalidInputError
from lensmount.v1 import common_pb2, sources_pb2
from lensmount_server.frames import Want
from lensmount_server.services import convert
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import DropPolicy
from lensmount_server.video.settings import Effort, Gate, Pace, Reconnect, Region, Transport

STATES = {state: sources_pb2.SourceState.Value(f"SOURCE_STATE_{state.name}") for state in SourceState}
POLICIES = {policy: common_pb2.DropPolicy.Value(f"DROP_POLICY_{policy.name}") for policy in DropPolicy}
TRANSPORTS = {each: sources_pb2.Transport.Value(f"TRANSPORT_{each.name}") for each in Transport}
PACES = {each: sources_pb2.Pace.Value(f"PACE_{each.name}") for each in Pace}
EFFORTS = {each: sources_pb2.DecodeEffort.Value(f"DECODE_EFFORT_{each.name}") for each in Effort}

_HIDDEN = ":***@"
_OPTIONS = tuple(field.name for field in sources_pb2.SourceConfig.DESCRIPTOR.fields if field.name != "name")

ChoiceT = TypeVar("ChoiceT", bound=Enum)


def spec_of(config: sources_pb2.SourceConfig) -> SourceSpec:
    """What a configuration asks for, defaults filled in.

    Raises InvalidInputError for tasks that can not be and for choices that are not known; numbers and the
    address are checked where the source is made.
    """
    pace = _choice("pace", config.pace, PACES, Pace.REALTIME)
    usual = DropPolicy.EVERY_FRAME if pace is Pace.FAST else DropPolicy.NEWEST
    return SourceSpec(
        name=config.name,
        url=config.url,
        wants=convert.wants(config.tasks),
        policy=_choice("drop_policy", config.drop_policy, POLICIES, usual),
        loop=config.loop,
        deadline_ms=config.deadline_ms,
        priority=config.priority,
        queue_size=config.queue_size,
        transport=_choice("transport", config.transport, TRANSPORTS, Transport.TCP),
        pace=pace,
        effort=_choice("decode_effort", config.decode_effort, EFFORTS, Effort.AUTO),
        rotation=config.rotation,
        region=_region(config),
        gate=Gate(config.gate.change, config.gate.refresh_ms or Gate().refresh_ms),
        reconnect=_reconnect(config.reconnect),
        paused=config.paused,
    )


def config_of(spec: SourceSpec, url: str) -> sources_pb2.SourceConfig:
    """The configuration that asks for it, with every default spelled out; `url` is the address to tell."""
    region, gate, reconnect = spec.region, spec.gate, spec.reconnect
    return sources_pb2.SourceConfig(
        name=spec.name,
        url=url,
        tasks=[_task(want) for want in spec.wants],
        drop_policy=POLICIES[spec.policy],
        loop=spec.loop,
        deadline_ms=spec.deadline_ms,
        priority=spec.priority,
        queue_size=spec.queue_size,
        transport=TRANSPORTS[spec.transport],
        pace=PACES[spec.pace],
        decode_effort=EFFORTS[spec.effort],
        rotation=spec.rotation,
        region=sources_pb2.Region(left=region.left, top=region.top, width=region.width, height=region.height),
        gate=sources_pb2.MotionGate(change=gate.change, refresh_ms=gate.refresh_ms),
        reconnect=sources_pb2.Reconnect(first_ms=reconnect.first_ms, longest_ms=reconnect.longest_ms),
        paused=spec.paused,
    )


def changed(spec: SourceSpec, update: sources_pb2.SourceConfig, mask: Iterable[str] = ()) -> SourceSpec:
    """A source after a change: of the fields that `mask` names, or of all that are set in `update` (AIP-134).

    An address as Source shows it, without its password, stands for the one that is stored; without a mask
    no other address is taken. Raises InvalidInputError for a field that is none, for what can not be changed,
    and as `spec_of` does.
    """
    named = tuple(mask)
    paths = named or _set_fields(spec, update)
    _check_paths(paths)
    told = sources_pb2.SourceConfig()
    told.CopyFrom(update)
    for parent in {path.partition(".")[0] for path in paths if "." in path}:
        getattr(told, parent).SetInParent()  # what is named and not set gets its default
    config = config_of(spec, spec.url)
    FieldMask(paths=paths).MergeMessage(told, config, True, True)
    config.url = _kept_url(spec, config.url)
    return spec_of(config)


def source(status: SourceStatus) -> sources_pb2.Source:
    """A source with its state and account; its address has no password."""
    spec, account = status.spec, status.account
    return sources_pb2.Source(
        config=config_of(spec, spec.shown_url),
        state=STATES[status.state],
        reason=status.reason,
        decoded=account.decoded,
        answered=account.answered,
        dropped=convert.drops(account.dropped),
        fps=status.fps,
        width=status.width,
        height=status.height,
        codec=status.codec,
        skipped=status.skipped,
        connections=status.connections,
        crashes=status.crashes,
        state_time_ns=status.state_time_ns,
        last_frame_time_ns=status.last_frame_time_ns,
    )


def _choice(field: str, number: int, numbers: Mapping[ChoiceT, int], default: ChoiceT) -> ChoiceT:
    if not number:
        return default
    found = next((choice for choice, own in numbers.items() if own == number), None)
    if found is None:
        known = ", ".join(f"{choice.name} ({own})" for choice, own in numbers.items())
        raise InvalidInputError("no such choice", field=field, value=number, fix=f"use one of {known}")
    return found


def _region(config: sources_pb2.SourceConfig) -> Region:
    told = config.region
    return Region(told.left, told.top, told.width, told.height) if config.HasField("region") else Region()


def _reconnect(told: sources_pb2.Reconnect) -> Reconnect:
    first_ms = told.first_ms or Reconnect().first_ms
    return Reconnect(first_ms, told.longest_ms or max(first_ms, Reconnect().longest_ms))


def _set_fields(spec: SourceSpec, update: sources_pb2.SourceConfig) -> tuple[str, ...]:
    """The names of what `update` sets, but for the name and an address that is the source's own."""
    if update.url and update.url not in (spec.url, spec.shown_url):
        fix = 'name "url" in update_mask'
        raise InvalidInputError("the address is changed only on request", field="update_mask", fix=fix)
    names = tuple(field.name for field, _ in update.ListFields() if field.name not in ("name", "url"))
    if not names and not update.url:
        fix = "set a field of `source`, or name one in update_mask to give it its default"
        raise InvalidInputError("nothing to change", field="update_mask", fix=fix)
    return names


def _check_paths(paths: Iterable[str]) -> None:
    for path in paths:
        if path == "name":
            fix = "add another source and remove this one"
            raise InvalidInputError("a name can not be changed", field="update_mask", value=path, fix=fix)
        if not FieldMask(paths=[path]).IsValidForDescriptor(sources_pb2.SourceConfig.DESCRIPTOR):
            fix = f"use fields of a source: {', '.join(_OPTIONS)}; or a part of one, as gate.change"
            raise InvalidInputError("no such field", field="update_mask", value=path, fix=fix)


def _kept_url(spec: SourceSpec, url: str) -> str:
    if url == spec.shown_url:
        return spec.url
    if _HIDDEN in url:
        fix = "give the address with its password"
        raise InvalidInputError("an address whose password is hidden", field="url", value=url, fix=fix)
    return url


def _task(want: Want) -> common_pb2.TaskRef:
    return common_pb2.TaskRef(task=want.task, alias=want.alias, version=want.version, max_fps=want.max_fps)
