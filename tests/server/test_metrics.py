"""What Prometheus reads is what the sources say."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_server.app import running
from lensmount_server.config import ServeConfig
from lensmount_server.engine.runtime import Counters
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.frames import Want
from lensmount_server.metrics import Snapshot, metrics_server
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.video.account import AccountState, Drops
from lensmount_server.whereabouts import ResidencyState
from serving import Kit
from zygotes import shared_zygote

SPEC = SourceSpec("line-1", "rtsp://me:secret@camera/1", (Want("defect"),))
STATUS = SourceStatus(
    SPEC,
    SourceState.LIVE,
    AccountState(90, 70, Drops(superseded=10, late=4, rate=3, decode=2, gate=1, failed=2)),
    fps=24.5,
    skipped=7,
    connections=3,
    crashes=1,
    last_frame_time_ns=1_795_000_000_500_000_000,
)
ONE = frozenset({"line-1"})
ENGINE = Counters(5, 70, 140, ())
HELD = ResidencyState(
    hot=3, size_bytes=0, leased=0, pinned=0, cached=0, cached_bytes=0, loads=9, evictions=0, quarantined=1
)


async def read(port: int) -> dict[tuple[str, frozenset[str]], float]:
    with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert "secret" not in text
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_everything_is_told() -> None:
    async with metrics_server("127.0.0.1", 0, lambda: Snapshot([STATUS], 2, ENGINE, HELD, 7, 1.5)) as port:
        told = await read(port)
    held = {"adapters_hot": 3, "adapters_quarantined": 1, "adapter_loads_total": 9, "registry_sequence": 7}
    for name, value in {**held, "registry_behind_seconds": 1.5}.items():
        assert told[f"lensmount_{name}", frozenset()] == value
    assert told["lensmount_source_decoded_frames_total", ONE] == 90
    assert told["lensmount_source_answered_frames_total", ONE] == 70
    reasons = {"superseded": 10, "late": 4, "rate": 3, "decode": 2, "gate": 1, "failed": 2}
    for reason, count in reasons.items():
        assert told["lensmount_source_dropped_total", frozenset(("line-1", reason))] == count
    for state in SourceState:
        is_it = state is SourceState.LIVE
        assert told["lensmount_source_state", frozenset(("line-1", state.name.lower()))] == is_it
    assert told["lensmount_source_frames_per_second", ONE] == 24.5
    assert told["lensmount_source_skipped_packets_total", ONE] == 7
    assert told["lensmount_source_connections_total", ONE] == 3
    assert told["lensmount_source_crashes_total", ONE] == 1
    assert told["lensmount_source_last_frame_timestamp_seconds", ONE] == 1_795_000_000.5
    assert (told["lensmount_workers", frozenset()], told["lensmount_engine_rows_total", frozenset()]) == (2, 140)


async def test_it_tells_of_now_each_time() -> None:
    statuses: list[SourceStatus] = []
    async with metrics_server("127.0.0.1", 0, lambda: Snapshot(statuses, 0, ENGINE, HELD, 0, 0.0)) as port:
        assert ("lensmount_source_decoded_frames_total", ONE) not in await read(port)
        statuses.append(STATUS)
        assert ("lensmount_source_decoded_frames_total", ONE) in await read(port)


async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError, match="listen") as caught:
        async with metrics_server("127.0.0.1", taken.getsockname()[1], lambda: Snapshot([], 0, ENGINE, HELD, 0, 0.0)):
            pass
    assert caught.value.field == "metrics_address"


async def test_a_server_has_them_where_it_is_told(kit: Kit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = EngineSettings("reference")
    config = ServeConfig(tmp_path, "127.0.0.1:0", kit.backbone.name, kit.weights, engine, metrics_address="127.0.0.1:0")
    with caplog.at_level("INFO"):
        async with running(config, shared_zygote()):
            port = int(caplog.text.partition("metrics on http://127.0.0.1:")[2].partition("/")[0])
            assert (await read(port))["lensmount_workers", frozenset()] == 0
    with pytest.raises(OSError, match="refused"):
        await read(port)


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        _ = ServeConfig(Path(), metrics_address="nowhere").metrics_host_port
    assert caught.value.field == "metrics_address"
