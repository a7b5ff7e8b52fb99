"""How the sources and the engine do, for Prometheus (text format 0.0.4 and OpenMetrics, by prometheus_client)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lensmount.errors import UnavailableError
from lensmount_server.engine.runtime import Counters
from lensmount_server.sources.model import SourceState, SourceStatus
from lensmount_server.video.account import Drops
from lensmount_server.whereabouts import ResidencyState

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
_REASONS = tuple(field.name for field in fields(Drops) if field.name != "subscriber")


@dataclass(frozen=True)
class Snapshot:
    """All that is told, of one moment."""

    sources: list[SourceStatus]
    workers: int
    engine: Counters
    adapters: ResidencyState
    registry_seq: int
    registry_behind_s: float


class ServerCollector(Collector):
    """Asks the server's event loop for a snapshot whenever somebody reads the metrics."""

    def __init__(self, loop: asyncio.AbstractEventLoop, snapshot: Callable[[], Snapshot]) -> None:
        self._loop = loop
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """The metrics now. Called by other threads."""
        taken = asyncio.run_coroutine_threadsafe(self._take(), self._loop).result(_PATIENCE_S)
        yield from _sources(taken.sources)
        yield from _adapters(taken)
        yield GaugeMetricFamily("lensmount_workers", "Worker processes that decode.", taken.workers)
        yield CounterMetricFamily("lensmount_engine_batches", "Passes of the engine.", taken.engine.batches)
        yield CounterMetricFamily("lensmount_engine_frames", "Frames that the engine answered.", taken.engine.frames)
        yield CounterMetricFamily("lensmount_engine_rows", "Rows that the engine answered.", taken.engine.rows)

    def describe(self) -> Iterable[Metric]:
        """Nothing: it would need the event loop while it starts."""
        return ()

    async def _take(self) -> Snapshot:
        return self._snapshot()


@asynccontextmanager
async def metrics_server(host: str, port: int, snapshot: Callable[[], Snapshot]) -> AsyncIterator[int]:
    """`/metrics` on that address while the context is open; gives the port that was bound. Raises UnavailableError."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(asyncio.get_running_loop(), snapshot))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        fix = "give --metrics-address another port"
        why = f"can not listen: {error.strerror}"
        raise UnavailableError(why, field="metrics_address", value=f"{host}:{port}", fix=fix) from error
    log.info("metrics on http://%s:%d/metrics", host, server.server_port)
    try:
        yield int(server.server_port)
    finally:
        await asyncio.to_thread(server.shutdown)  # a reader may wait for this very loop
        server.server_close()
        await asyncio.to_thread(thread.join)


def _adapters(taken: Snapshot) -> Iterator[Metric]:
    adapters = taken.adapters
    yield GaugeMetricFamily("lensmount_adapters_hot", "Adapter versions in memory.", adapters.hot)
    yield GaugeMetricFamily("lensmount_adapters_quarantined", "Versions that must not answer.", adapters.quarantined)
    yield CounterMetricFamily("lensmount_adapter_loads", "Versions that were brought into memory.", adapters.loads)
    seq, behind = "lensmount_registry_sequence", "lensmount_registry_behind_seconds"
    yield GaugeMetricFamily(seq, "The last change of the registry that took effect here.", taken.registry_seq)
    yield GaugeMetricFamily(behind, "For how long the registry could not be read; 0: it can.", taken.registry_behind_s)


def _sources(sources: list[SourceStatus]) -> Iterator[Metric]:
    state = GaugeMetricFamily("lensmount_source_state", "1 for the state it is in.", labels=("source", "state"))
    dropped = CounterMetricFamily(
        "lensmount_source_dropped", "Frames that were not answered, and why.", labels=("source", "reason")
    )
    for status in sources:
        for each in SourceState:
            state.add_metric((status.spec.name, each.name.lower()), int(each is status.state))
        for reason in _REASONS:
            dropped.add_metric((status.spec.name, reason), getattr(status.account.dropped, reason))
    yield state
    yield dropped
    for name, what, value in _COUNTERS:
        yield _family(CounterMetricFamily(f"lensmount_source_{name}", what, labels=("source",)), sources, value)
    for name, what, value in _GAUGES:
        yield _family(GaugeMetricFamily(f"lensmount_source_{name}", what, labels=("source",)), sources, value)


_Value = Callable[[SourceStatus], float]
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("decoded_frames", "Frames that the decoder gave.", lambda status: status.account.decoded),
    ("answered_frames", "Frames that were answered.", lambda status: status.account.answered),
    ("skipped_packets", "Packets that no task needed decoded.", lambda status: status.skipped),
    ("connections", "Connections that gave a frame.", lambda status: status.connections),
    ("crashes", "Worker processes that died under it.", lambda status: status.crashes),
)
_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    ("frames_per_second", "Decoded, over the last seconds.", lambda status: status.fps),
    ("last_frame_timestamp_seconds", "Unix time; 0 before the first.", lambda status: status.last_frame_time_ns / 1e9),
)


def _family(
    family: CounterMetricFamily | GaugeMetricFamily, sources: list[SourceStatus], value: _Value
) -> CounterMetricFamily | GaugeMetricFamily:
    for status in sources:
        family.add_metric((status.spec.name,), value(status))
    return family
