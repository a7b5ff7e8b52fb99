"""Between protobuf messages and the server's own types; nothing else happens here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from lensmount.errors import InvalidInputError
from lensmount.terms import deadline_number, priority_number, rate_number
from lensmount.v1 import adapters_pb2, common_pb2
from lensmount_server.frames import Answer, VersionId, Want
from lensmount_server.registrar import Promotion, Registration
from lensmount_server.registry import AliasState, Filter, Record
from lensmount_server.scheduling import Terms
from lensmount_server.services import names
from lensmount_server.streams import DropPolicy, Drops, StreamResult
from lensmount_server.whereabouts import Place, Whereabouts

MAX_TASKS = 64
MAX_QUERY = 200

Ref = common_pb2.TaskRef

RESIDENCIES = {place: adapters_pb2.Residency.Value(f"RESIDENCY_{place.name}") for place in Place}
POLICIES = {
    common_pb2.DROP_POLICY_EVERY_FRAME: DropPolicy.EVERY_FRAME,
    common_pb2.DROP_POLICY_NEWEST: DropPolicy.NEWEST,
}


def wants(tasks: Iterable[common_pb2.TaskRef]) -> tuple[Want, ...]:
    """The tasks of a request; raises InvalidInputError when there is none, too many, or one twice."""
    asked = tuple(want(task) for task in tasks)
    fix = "name every task once; `lensmount adapters list` shows what there is"
    if not 1 <= len(asked) <= MAX_TASKS:
        raise InvalidInputError(f"1 to {MAX_TASKS} tasks expected", field="tasks", value=len(asked), fix=fix)
    keys = [(each.task, each.alias, each.version) for each in asked]
    if len(set(keys)) != len(keys):
        twice = next(task for task, alias, version in keys if keys.count((task, alias, version)) > 1)
        raise InvalidInputError("the same task twice", field="tasks", value=twice, fix=fix)
    return asked


def still_wants(tasks: Iterable[common_pb2.TaskRef]) -> tuple[Want, ...]:
    """The tasks of a single picture, which has no rate; raises InvalidInputError as `wants` does, and for a rate."""
    asked = wants(tasks)
    rated = next((each for each in asked if each.max_fps), None)
    if rated is not None:
        fix = "leave max_fps away; streams and sources have it"
        raise InvalidInputError("a single picture has no rate", field="tasks", value=rated.task, fix=fix)
    return asked


def want(task: common_pb2.TaskRef) -> Want:
    """One task reference with its defaults filled in; raises InvalidInputError without a task or for a bad rate."""
    if not task.task:
        raise InvalidInputError("a task without a name", field="tasks", fix="give every task its name")
    return Want(task.task, task.alias or "live", task.version, rate_number(task.max_fps))


def terms(source: str, deadline_ms: int, priority: int, prefix: str = "") -> Terms:
    """How a stream's frames are scheduled; raises InvalidInputError. `prefix` is where the fields are."""
    deadline_s = deadline_number(deadline_ms, f"{prefix}deadline_ms") / 1e3
    return Terms(source, priority_number(priority, f"{prefix}priority"), deadline_s or None)


def version_id(version: VersionId) -> common_pb2.AdapterVersion:
    """An adapter version."""
    return common_pb2.AdapterVersion(task=version.task, version=version.version, content_hash=version.content_hash)


def drops(lost: Drops) -> common_pb2.Drops:
    """Lost frames by reason."""
    return common_pb2.Drops(**vars(lost))


def answer(given: Answer) -> common_pb2.Result:
    """An answer as a result, without the stream's facts."""
    pairs = zip(given.labels, given.scores, strict=True)
    return common_pb2.Result(
        adapter=version_id(given.adapter),
        scores=[common_pb2.LabelScore(label=label, score=score) for label, score in pairs],
        labels=given.decision,
        timings=common_pb2.Timings(queue_ms=given.queue_ms, inference_ms=given.inference_ms),
    )


def stream_result(given: StreamResult, jpeg: bytes = b"") -> common_pb2.Result:
    """A result of a stream, with the frame as JPEG where it was asked for."""
    result = answer(given.answer)
    result.source = given.source
    result.frame_index = given.frame_index
    result.pts_ns = given.pts_ns
    result.capture_time_ns = given.capture_time_ns
    result.timings.CopyFrom(common_pb2.Timings(**vars(given.timings)))
    result.dropped_before.CopyFrom(drops(given.dropped_before))
    result.reused = given.reused
    result.jpeg = jpeg
    return result


def adapter(record: Record, where: Whereabouts) -> adapters_pb2.Adapter:
    """A registered version, and where it is."""
    manifest = record.manifest
    return adapters_pb2.Adapter(
        version=version_id(record.id),
        aliases=record.aliases,
        labels=manifest.labels,
        multi_label=manifest.kind == "multi_label",
        strategy=manifest.strategy,
        fork=manifest.fork,
        backbone=manifest.backbone.name,
        backbone_fingerprint=manifest.backbone.fingerprint,
        size_bytes=record.size_bytes,
        registered_time_ns=record.registered_time_ns,
        metrics=manifest.metrics,
        residency=RESIDENCIES[where.place],
        residency_reason=where.reason,
        tags=record.tags,
        pinned=record.pin_reason is not None,
        pin_reason=record.pin_reason or "",
        registered_by=record.by.actor,
        origin=record.by.origin,
        alias_states=map(alias_state, record.states),
    )


def alias_state(state: AliasState) -> adapters_pb2.AliasState:
    """An alias of a version."""
    return adapters_pb2.AliasState(alias=state.alias, etag=state.etag, set_time_ns=state.set_time_ns)


def record_filter(request: adapters_pb2.ListAdaptersRequest) -> Filter:
    """Which versions a list shall hold; raises InvalidInputError or TooLargeError."""
    if len(request.query) > MAX_QUERY:
        fix = f"search for at most {MAX_QUERY} characters"
        raise InvalidInputError("too long", field="query", value=request.query, fix=fix)
    return Filter(request.task, request.alias, names.tags(request.tags, "tags"), request.query, request.pinned_only)


def registration(done: Registration, where: Whereabouts) -> adapters_pb2.RegisterAdapterResponse:
    """A registration, the checks that it passed, and where the version is."""
    checks = [adapters_pb2.GateCheck(**asdict(check)) for check in done.checks]
    return adapters_pb2.RegisterAdapterResponse(
        adapter=adapter(done.record, where),
        checks=checks,
        already_registered=not done.is_new,
        alias=None if done.promotion is None else promotion(done.promotion),
    )


def promotion(done: Promotion) -> adapters_pb2.SetAliasResponse:
    """An alias that was set."""
    return adapters_pb2.SetAliasResponse(
        task=done.task,
        alias=done.alias,
        version=done.version,
        previous_version=done.previous,
        switch_ms=done.switch_ms,
        etag=done.etag,
        first_answer_ms=done.first_answer_ms,
    )
