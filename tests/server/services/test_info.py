from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import lensmount
from factories import pictures
from lensmount.v1 import inference_pb2
from serving import Kit, Served, config, eventually, push, raw_frame, refs, serving

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
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
