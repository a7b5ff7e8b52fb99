"""grpc.health.v1: what the server tells probes and balancers of itself.

The server as a whole (`""`) and the services that answer frames are serving while the engine can answer: that is
readiness. The others are serving until the server stops: to ask one of them, this one for example, is liveness.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from lensmount_server.engine.runtime import Engine

WHOLE = ""
# How old what is told of the engine may be.
LOOK_S = 0.2
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def health_of(
    server: grpc.aio.Server, services: Collection[str], answering: Collection[str], engine: Engine
) -> AsyncIterator[health.aio.HealthServicer]:
    """The health of `services`, which `server` tells from its start on; that of `answering` follows the engine's."""
    told = health.aio.HealthServicer()
    for service in services:
        await told.set(service, SERVING)
    before = engine.answers
    await _tell(told, answering, answers=before)
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    following = asyncio.create_task(_follow(told, answering, engine, answers=before), name="health")
    try:
        yield told
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def _follow(
    told: health.aio.HealthServicer, answering: Collection[str], engine: Engine, *, answers: bool
) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        before, answers = answers, engine.answers
        if answers != before:
            await _tell(told, answering, answers=answers)


async def _tell(told: health.aio.HealthServicer, answering: Collection[str], *, answers: bool) -> None:
    status = SERVING if answers else NOT_SERVING
    for service in (WHOLE, *answering):
        await told.set(service, status)
