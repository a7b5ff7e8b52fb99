"""From protobuf messages to `lensmount.results`; the only place that knows both."""

from __future__ import annotations

from lensmount import results
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2

_RESIDENCIES = {
    number: results.Residency(name.removeprefix("RESIDENCY_").lower())
    for name, number in adapters_pb2.Residency.items()
}
_EVENTS = {
    number: results.AdapterEventKind(name.removeprefix("KIND_").lower())
    for name, number in adapters_pb2.AdapterEvent.Kind.items()
}


def adapter_version(message: common_pb2.AdapterVersion) -> results.AdapterVersion:
    """An adapter version."""
    return results.AdapterVersion(message.task, message.version, message.content_hash)


def drops(message: common_pb2.Drops) -> results.Drops:
    """Lost frames by reason."""
    return results.Drops(
        superseded=message.superseded,
        late=message.late,
        rate=message.rate,
        decode=message.decode,
        gate=message.gate,
        subscriber=message.subscriber,
        failed=message.failed,
    )


def result(message: common_pb2.Result) -> results.Result:
    """One task's answer for one frame."""
    return results.Result(
        source=message.source,
        frame_index=message.frame_index,
        pts_ns=message.pts_ns,
        capture_time_ns=message.capture_time_ns,
        adapter=adapter_version(message.adapter),
        scores=tuple(results.LabelScore(each.label, each.score) for each in message.scores),
        labels=tuple(message.labels),
        timings=_timings(message.timings),
        dropped_before=drops(message.dropped_before),
        reused=message.reused,
        jpeg=message.jpeg,
    )


def infer_results(message: inference_pb2.InferResponse) -> list[results.Result]:
    """One result per task, in the order asked."""
    return [result(each) for each in message.results]


def stream_started(message: inference_pb2.StreamStarted) -> results.StreamStarted:
    """The first answer of a stream."""
    return results.StreamStarted(message.name, tuple(adapter_version(each) for each in message.adapters))


def stream_summary(message: inference_pb2.StreamSummary) -> results.StreamSummary:
    """The last answer of a stream."""
    return results.StreamSummary(message.received, message.decoded, message.answered, drops(message.dropped))


def adapter(message: adapters_pb2.Adapter) -> results.Adapter:
    """A registered version."""
    return results.Adapter(
        task=message.version.task,
        version=message.version.version,
        content_hash=message.version.content_hash,
        aliases=tuple(message.aliases),
        labels=tuple(message.labels),
        multi_label=message.multi_label,
        strategy=message.strategy,
        fork=message.fork,
        backbone=message.backbone,
        backbone_fingerprint=message.backbone_fingerprint,
        size_bytes=message.size_bytes,
        registered_time_ns=message.registered_time_ns,
        metrics=dict(message.metrics),
        residency=_RESIDENCIES.get(message.residency, results.Residency.UNSPECIFIED),
        residency_reason=message.residency_reason,
        tags=dict(message.tags),
        pin_reason=message.pin_reason if message.pinned else None,
        registered_by=message.registered_by,
        origin=message.origin,
        alias_states=tuple(
            [results.AliasState(each.alias, each.etag, each.set_time_ns) for each in message.alias_states]
        ),
    )


def adapter_page(message: adapters_pb2.ListAdaptersResponse) -> tuple[list[results.Adapter], str]:
    """A page of versions and the token of the next one; "" after the last."""
    return [adapter(each) for each in message.adapters], message.next_page_token


def registration(message: adapters_pb2.RegisterAdapterResponse) -> results.Registration:
    """What became of an upload."""
    checks = tuple(results.GateCheck(each.name, each.detail, each.duration_ms) for each in message.checks)
    change = alias_change(message.alias) if message.HasField("alias") else None
    return results.Registration(adapter(message.adapter), checks, message.already_registered, change)


def alias_change(message: adapters_pb2.SetAliasResponse) -> results.AliasChange:
    """A promotion or a rollback."""
    return results.AliasChange(
        task=message.task,
        alias=message.alias,
        version=message.version,
        previous_version=message.previous_version,
        switch_ms=message.switch_ms,
        etag=message.etag,
        first_answer_ms=message.first_answer_ms if message.HasField("first_answer_ms") else None,
    )


def adapter_event(message: adapters_pb2.AdapterEvent) -> results.AdapterEvent:
    """An entry of the journal."""
    return results.AdapterEvent(
        kind=_EVENTS.get(message.kind, results.AdapterEventKind.UNSPECIFIED),
        adapter=adapter_version(message.adapter),
        alias=message.alias,
        time_ns=message.time_ns,
        sequence=message.sequence,
        previous_version=message.previous_version,
        actor=message.actor,
        origin=message.origin,
        detail=message.detail,
    )


def event_page(message: adapters_pb2.ListEventsResponse) -> tuple[list[results.AdapterEvent], str]:
    """A page of the journal and the token of the next one; "" after the last."""
    return [adapter_event(each) for each in message.events], message.next_page_token


def collected(message: adapters_pb2.CollectAdaptersResponse) -> results.Collected:
    """What was removed."""
    return results.Collected(tuple(map(adapter_version, message.removed)), message.size_bytes)


def server_info(message: inference_pb2.ServerInfo) -> results.ServerInfo:
    """What a server runs on."""
    backbone, engine = message.backbone, message.engine
    return results.ServerInfo(
        version=message.version,
        backbone=results.Backbone(backbone.name, backbone.fingerprint, tuple(backbone.segments)),
        device=message.device,
        precision=message.precision,
        engine=results.EngineCounters(engine.batches, engine.frames, engine.rows, tuple(engine.segment_rows)),
        max_message_bytes=message.max_message_bytes,
        uptime_ms=message.uptime_ms,
        engine_info=engine_info(message.engine_info),
        residency=residency_state(message.residency),
    )


def engine_info(message: inference_pb2.EngineInfo) -> results.EngineInfo:
    """What computes, and why."""
    return results.EngineInfo(
        name=message.name,
        batch_sizes=tuple(message.batch_sizes),
        costs=tuple(results.BatchCost(each.rows, each.batch_ms) for each in message.costs),
        candidates=tuple(engine_candidate(each) for each in message.candidates),
        reason=message.reason,
    )


def engine_candidate(message: inference_pb2.EngineCandidate) -> results.EngineCandidate:
    """One way to compute that was measured."""
    return results.EngineCandidate(
        engine=message.engine,
        precision=message.precision,
        one_row_ms=message.one_row_ms,
        eight_rows_ms=message.eight_rows_ms,
        error=message.error,
        too_coarse=message.too_coarse,
        chosen=message.chosen,
    )


def residency_state(message: inference_pb2.ResidencyState) -> results.ResidencyState:
    """What is in memory."""
    return results.ResidencyState(
        hot=message.hot,
        hot_bytes=message.hot_bytes,
        leased=message.leased,
        pinned=message.pinned,
        host_cached=message.host_cached,
        host_cached_bytes=message.host_cached_bytes,
        loads=message.loads,
        evictions=message.evictions,
        quarantined=message.quarantined,
    )


def _timings(message: common_pb2.Timings) -> results.Timings:
    return results.Timings(message.decode_ms, message.queue_ms, message.inference_ms, message.total_ms)
