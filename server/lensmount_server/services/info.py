"""What the server runs on, as GetServerInfo tells it."""

from __future__ import annotations

import lensmount
from lensmount.v1 import inference_pb2
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import Candidate
from lensmount_server.engine.runtime import Counters, Engine
from lensmount_server.services.errors import MAX_MESSAGE_BYTES
from lensmount_server.whereabouts import ResidencyState


def server_info(engine: Engine, state: ResidencyState, uptime_ms: int) -> inference_pb2.ServerInfo:
    """The whole answer."""
    return inference_pb2.ServerInfo(
        version=lensmount.__version__,
        backbone=_backbone(engine.backbone),
        device=str(engine.backbone.device),
        precision=engine.precision,
        engine=_counters(engine.counters()),
        max_message_bytes=MAX_MESSAGE_BYTES,
        uptime_ms=uptime_ms,
        engine_info=engine_info(engine),
        residency=_residency(state),
    )


def engine_info(engine: Engine) -> inference_pb2.EngineInfo:
    """What computes, why, and what was measured."""
    executor, choice = engine.executor, engine.choice
    costs = [inference_pb2.BatchCost(rows=rows, batch_ms=ms) for rows, ms in sorted(engine.batch_ms.items())]
    own = (executor.name, executor.precision)
    candidates = [_candidate(each, chosen=(each.engine, each.precision) == own) for each in choice.candidates]
    return inference_pb2.EngineInfo(
        name=executor.name,
        batch_sizes=sorted(executor.batch_sizes),
        costs=costs,
        candidates=candidates,
        reason=choice.reason,
    )


def _candidate(measured: Candidate, *, chosen: bool) -> inference_pb2.EngineCandidate:
    return inference_pb2.EngineCandidate(
        engine=measured.engine,
        precision=measured.precision,
        one_row_ms=measured.one_row_ms,
        eight_rows_ms=measured.eight_rows_ms,
        error=measured.error,
        too_coarse=measured.too_coarse,
        chosen=chosen,
    )


def _backbone(backbone: Backbone) -> inference_pb2.BackboneInfo:
    return inference_pb2.BackboneInfo(
        name=backbone.name,
        fingerprint=backbone.fingerprint,
        segments=[segment.name for segment in backbone.segments],
    )


def _counters(counters: Counters) -> inference_pb2.EngineCounters:
    return inference_pb2.EngineCounters(
        batches=counters.batches,
        frames=counters.frames,
        rows=counters.rows,
        segment_rows=counters.segment_rows,
    )


def _residency(state: ResidencyState) -> inference_pb2.ResidencyState:
    return inference_pb2.ResidencyState(
        hot=state.hot,
        hot_bytes=state.size_bytes,
        leased=state.leased,
        pinned=state.pinned,
        host_cached=state.cached,
        host_cached_bytes=state.cached_bytes,
        loads=state.loads,
        evictions=state.evictions,
        quarantined=state.quarantined,
    )
