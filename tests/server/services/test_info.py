from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import lensmount
from factories import pictures
from lensmount import IncompatibleError, Residency
from lensmount.v1 import inference_pb2
from lensmount_server.app import ANSWERING
from lensmount_server.config import ServeConfig
from lensmount_server.engine.choice import Candidate, measured
from lensmount_server.engine.cpu.costs import CostTable
from lensmount_server.engine.opening import cpu_executor
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine
from lensmount_server.engine.settings import EngineSettings
from lensmount_server.hotset import HotLimits
from lensmount_server.services.info import engine_info
from serving import Feed, Kit, Served, config, eventually, message, push, raw_frame, read, refs, serving, stored

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "lensmount.v1.AdapterService",
    "lensmount.v1.InferenceService",
    "lensmount.v1.SourceService",
]
SHOTS = pictures(6, seed=2)


async def info(server: Served) -> inference_pb2.ServerInfo:
    return await server.inference.GetServerInfo(inference_pb2.GetServerInfoRequest())


async def test_what_the_server_runs_on(server: Served, kit: Kit) -> None:
    found = await info(server)
    assert found.version == lensmount.__version__
    assert (found.backbone.name, found.backbone.fingerprint) == ("test_vit", kit.backbone.fingerprint)
    assert list(found.backbone.segments) == [segment.name for segment in kit.backbone.segments]
    assert (found.device, found.precision) == ("cpu", "fp32")
    assert found.max_message_bytes == 32 << 20
    assert found.engine == inference_pb2.EngineCounters(segment_rows=[0] * len(kit.backbone.segments))


async def test_an_engine_that_was_told_has_measured_nothing(server: Served) -> None:
    told = (await info(server)).engine_info
    assert told == inference_pb2.EngineInfo(name="reference", reason="the plain one, for comparison")


def candidate(engine: str, precision: str, error: float) -> Candidate:
    return Candidate(engine=engine, precision=precision, one_row_ms=1.5, eight_rows_ms=6, error=error)


def test_what_was_measured_and_why_it_was_chosen_is_told(kit: Kit) -> None:
    candidates = (candidate("openvino", "bf16", 0.3), candidate("torch", "fp32", 0.0))
    table = CostTable(candidates=candidates, chosen=candidates[1], buckets=(1, 4), batch_ms={8: 9.5, 1: 2.0})
    settings = EngineSettings(threads=1, merged_mib=0)
    executor = cpu_executor(kit.backbone, table, settings)
    told = engine_info(Engine(kit.backbone, executor, measured(settings, table.candidates)))
    executor.close()
    assert (told.name, list(told.batch_sizes)) == ("torch", [1, 4])
    assert [(each.rows, each.batch_ms) for each in told.costs] == [(1, 2.0), (8, 9.5)]
    assert [(each.engine, each.precision, each.too_coarse, each.chosen) for each in told.candidates] == [
        ("openvino", "bf16", True, False),
        ("torch", "fp32", False, True),
    ]
    assert [(each.one_row_ms, each.eight_rows_ms, each.error) for each in told.candidates] == [
        (1.5, 6, 0.3),
        (1.5, 6, 0),
    ]
    assert "within 2% of fp32" in told.reason


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (EngineSettings(), "the fastest"),
        (EngineSettings(precision="fp32"), "(--precision fp32)"),
        (EngineSettings(engine="torch"), "(--engine torch)"),
        (EngineSettings("torch", "bf16"), "nothing else was allowed (--engine torch --precision bf16)"),
    ],
)
def test_the_reason_names_what_was_told(settings: EngineSettings, part: str) -> None:
    assert part in measured(settings, ()).reason
    assert ("--" in measured(settings, ()).reason) == (settings != EngineSettings())


async def test_what_is_in_memory_is_counted(live: Served) -> None:
    told = (await info(live)).residency
    assert (told.hot, told.host_cached, told.evictions, told.quarantined) == (3, 0, 0, 0)
    assert told.hot_bytes > 0
    feed = Feed(message(config(inference_pb2.CODEC_RAW, "defect")))
    call = live.inference.StreamInfer(feed)
    assert (await read(call)).started.adapters
    assert (await info(live)).residency.pinned == 1
    feed.send(None)
    assert not (await read(call)).summary.received
    assert (await info(live)).residency.pinned == 0


async def listed(server: Served) -> dict[str, Residency]:
    return {adapter.task: adapter.residency async for adapter in server.client.adapters()}


async def test_every_listed_version_tells_where_it_is(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "serving.ServeConfig", lambda *given, **named: replace(ServeConfig(*given, **named), hot=HotLimits(1))
    )
    async with serving(kit, tmp_path / "data") as server:
        done = await server.client.register(kit.defect[0].folder, alias="live")
        assert done.adapter.residency is Residency.HOT
        await server.client.register(kit.surface.folder, alias="live")
        while (seen := await listed(server))["defect"] is not Residency.HOST_CACHED:
            pass  # it leaves in the background
        assert seen["surface"] is Residency.HOT
        assert (await server.client.adapter("defect")).residency is Residency.HOST_CACHED
        assert (await server.client.adapter("surface:1")).residency is Residency.HOT
        told = (await info(server)).residency
        assert (told.hot, told.host_cached, told.evictions) == (1, 1, 1)
        assert told.host_cached_bytes == kit.defect[0].adapter.size_bytes
    file = stored(tmp_path / "data", kit.defect[0].adapter.content_hash) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    async with serving(kit, tmp_path / "data") as server:
        assert await listed(server) == {"defect": Residency.COLD, "surface": Residency.COLD}
        with pytest.raises(IncompatibleError, match="in quarantine"):
            await server.client.infer(SHOTS[0], "defect")
        await server.client.infer(SHOTS[0], "surface")
        assert await listed(server) == {"defect": Residency.QUARANTINED, "surface": Residency.HOT}
        assert "register the package again" in (await server.client.adapter("defect")).residency_reason
        assert (await server.client.adapter("surface")).residency_reason == ""
        assert (await info(server)).residency.quarantined == 1


async def test_a_frame_wanted_by_two_tasks_runs_the_shared_segments_once(live: Served, kit: Kit) -> None:
    before = (await info(live)).engine
    await push(live, config(inference_pb2.CODEC_RAW, "defect", "surface"), map(raw_frame, SHOTS))
    after = (await info(live)).engine
    frames = after.frames - before.frames
    segments = [now - then for now, then in zip(after.segment_rows, before.segment_rows, strict=True)]
    fork = kit.defect[0].adapter.fork
    assert 0 < fork < len(segments)
    assert frames == len(SHOTS)
    assert after.rows - before.rows == 2 * frames
    assert segments[:fork] == [frames] * fork
    assert segments[fork:] == [2 * frames] * (len(segments) - fork)
    assert 1 <= after.batches - before.batches <= frames


async def test_tasks_that_only_add_a_head_cost_no_segment_twice(server: Served, kit: Kit) -> None:
    await server.client.register(kit.surface.folder, alias="live")
    await server.client.register(kit.surface.folder, alias="canary")
    before = (await info(server)).engine
    request = inference_pb2.InferRequest(tasks=refs("surface", "surface"), raw=raw_frame(SHOTS[0]))
    request.tasks[1].alias = "canary"
    await server.inference.Infer(request)
    after = (await info(server)).engine
    assert [now - then for now, then in zip(after.segment_rows, before.segment_rows, strict=True)] == [1] * 8


def health(server: Served) -> Any:
    """A stub; its types know no methods."""
    return health_pb2_grpc.HealthStub(server.channel)


async def test_health_is_told_for_the_server_and_each_service(server: Served) -> None:
    stub = health(server)
    for service in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="lensmount.v1.WeatherService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def statuses(server: Served) -> dict[str, int]:
    asked = [health_pb2.HealthCheckRequest(service=service) for service in ("", *SERVICES)]
    return {each.service: (await health(server).Check(each)).status for each in asked}


async def test_only_what_answers_frames_is_unhealthy_while_the_engine_can_not(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    async def watch() -> None:
        async for answer in health(server).Watch(health_pb2.HealthCheckRequest()):
            told.extend([answer.status])

    watching = asyncio.create_task(watch())
    await eventually(lambda: told == [SERVING], "the first state")
    with monkeypatch.context() as away:
        away.setattr(ReferenceExecutor, "answers", False)
        await eventually(lambda: told == [SERVING, NOT_SERVING], "the engine's absence")
        found = await statuses(server)
        assert {service for service, status in found.items() if status == NOT_SERVING} == {"", *ANSWERING}
        assert {service for service, status in found.items() if status == SERVING} == {*SERVICES} - {*ANSWERING}
    await eventually(lambda: told == [SERVING, NOT_SERVING, SERVING], "its return")
    assert set((await statuses(server)).values()) == {SERVING}
    watching.cancel()


async def test_health_can_be_watched_until_the_server_stops(kit: Kit, tmp_path: Path) -> None:
    told = []

    async def watch(call: Any) -> None:
        async for answer in call:
            told.append(answer.status)
            if answer.status == NOT_SERVING:
                call.cancel()

    async with serving(kit, tmp_path / "data") as server:
        channel = grpc.aio.insecure_channel(server.address)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = asyncio.create_task(watch(stub.Watch(health_pb2.HealthCheckRequest())))
        await eventually(lambda: told, "the first state")
    await asyncio.wait([watching])
    await channel.close()
    assert told == [SERVING, NOT_SERVING]


async def test_reflection_lists_every_service_and_its_methods(server: Served) -> None:
    request: Any = reflection_pb2.ServerReflectionRequest

    async def questions() -> AsyncIterator[Any]:
        yield request(list_services="")
        for service in SERVICES:
            yield request(file_containing_symbol=service)

    channel: Any = server.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    first, *files = [answer async for answer in stub.ServerReflectionInfo(questions())]
    assert sorted(service.name for service in first.list_services_response.service) == SERVICES
    assert len(files) == len(SERVICES)
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in files)
