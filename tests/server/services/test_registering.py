"""How many tasks wait for calls: a count, as grpc.aio goes over all of them for each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lensmount_server.services.registering import by_name
from serving import Served

METHODS = len(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)


class Live(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient has no types
    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        return service_pb2.ServerLiveResponse(live=True)


def registered() -> int:
    return sum("_request_registered_call" in repr(task) for task in asyncio.all_tasks())


@asynccontextmanager
async def calling(server: grpc.aio.Server, taken: grpc.aio.Server) -> AsyncIterator[Any]:
    """A client of a server whose services were added to `taken`."""
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Live(), taken)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    finally:
        await server.stop(None)


async def test_methods_found_by_name_answer_and_no_task_waits_for_each() -> None:
    server = grpc.aio.server()
    async with calling(server, by_name(server)) as stub:
        assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ServerReady(service_pb2.ServerReadyRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert registered() == 0


async def test_without_it_a_task_waits_for_each() -> None:
    server = grpc.aio.server()
    async with calling(server, server) as stub:
        assert (await stub.ServerLive(service_pb2.ServerLiveRequest())).live
        assert registered() >= METHODS - 1


async def test_a_whole_server_has_none(server: Served) -> None:
    assert await server.client.info()
    assert registered() == 0
