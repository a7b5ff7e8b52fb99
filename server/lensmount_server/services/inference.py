"""InferenceService: single pictures, pushed streams, and what the server runs on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from lensmount.errors import InvalidInputError
from lensmount.v1 import inference_pb2, inference_pb2_grpc
from lensmount_server.catalog import Catalog
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Frame
from lensmount_server.scheduling import Terms
from lensmount_server.services import convert
from lensmount_server.services.errors import Context
from lensmount_server.services.info import server_info
from lensmount_server.services.push import PushedStream, encoded, open_stream, raw
from lensmount_server.workers.pool import WorkerPool


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Translates between the wire, the catalog and the engine."""

    def __init__(self, catalog: Catalog, engine: Engine, pool: WorkerPool) -> None:
        self._catalog = catalog
        self._engine = engine
        self._pool = pool
        self._started = time.monotonic()

    async def Infer(self, request: inference_pb2.InferRequest, context: Context) -> inference_pb2.InferResponse:
        """One picture, any number of tasks."""
        wants = convert.still_wants(request.tasks)
        terms = Terms(context.peer(), deadline_s=context.time_remaining())
        await self._catalog.ensure(wants)
        frame = await asyncio.to_thread(_decode, request)
        answers = await self._catalog.answer(frame, wants, terms)
        results = [convert.answer(answer) for answer in answers]
        for result in results:
            result.capture_time_ns = frame.capture_time_ns
            result.timings.decode_ms = frame.decode_ms
            result.timings.total_ms = (time.time_ns() - frame.capture_time_ns) / 1e6
        return inference_pb2.InferResponse(results=results)

    async def StreamInfer(
        self, request_iterator: AsyncIterator[inference_pb2.StreamInferRequest], context: Context
    ) -> AsyncIterator[inference_pb2.StreamInferResponse]:
        """Pushed video: config first, then frames; results as they come, a summary at the end."""
        config = await _receive_config(request_iterator)
        wants = convert.wants(config.tasks)
        with self._catalog.pinned(wants):
            await self._catalog.note_use(wants)
            mounted = await self._catalog.ensure(wants)
            async with open_stream(config, wants, self._catalog, self._pool) as stream:
                versions = [convert.version_id(each.id) for each in mounted]
                started = inference_pb2.StreamStarted(name=stream.name, adapters=versions)
                yield inference_pb2.StreamInferResponse(started=started)
                async with aclosing(_results(stream, request_iterator, with_jpeg=config.with_jpeg)) as responses:
                    async for response in responses:
                        yield response
        yield inference_pb2.StreamInferResponse(summary=stream.summary())

    async def GetServerInfo(
        self, request: inference_pb2.GetServerInfoRequest, context: Context
    ) -> inference_pb2.ServerInfo:
        """Backbone, device, what computes and why, counters, and what is in memory."""
        uptime_ms = int((time.monotonic() - self._started) * 1e3)
        return server_info(self._engine, self._catalog.residency.state(), uptime_ms)


async def _receive_config(requests: AsyncIterator[inference_pb2.StreamInferRequest]) -> inference_pb2.StreamConfig:
    request = await anext(requests, None)
    if request is None or request.WhichOneof("message") != "config":
        got = "nothing" if request is None else request.WhichOneof("message") or "an empty message"
        fix = "send a StreamConfig first, then frames"
        raise InvalidInputError("the first message must be the config", field="config", value=got, fix=fix)
    return request.config


async def _results(
    stream: PushedStream, requests: AsyncIterator[inference_pb2.StreamInferRequest], *, with_jpeg: bool
) -> AsyncGenerator[inference_pb2.StreamInferResponse, None]:
    """The stream's results while its frames are fed in; raises what either side raises."""
    feeding = asyncio.create_task(stream.feed(requests))
    try:
        async with aclosing(stream.results()) as results:
            async for result in results:
                frame = result.frame
                jpeg = await asyncio.to_thread(frame.picture.jpeg) if with_jpeg and frame else b""
                yield inference_pb2.StreamInferResponse(result=convert.stream_result(result, jpeg))
        error = stream.error()
        if error is not None:
            raise error
        await feeding
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


def _decode(request: inference_pb2.InferRequest) -> Frame:
    kind = request.WhichOneof("picture")
    if kind == "raw":
        return raw(request.raw, index=0)
    if kind == "encoded":
        return encoded(request.encoded, index=0)
    raise InvalidInputError("no picture in the request", field="picture", fix="set `encoded` or `raw`")
