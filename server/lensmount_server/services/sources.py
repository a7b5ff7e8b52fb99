"""SourceService: videos that the server pulls, and the results of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from lensmount.errors import InvalidInputError, UnimplementedError
from lensmount.v1 import common_pb2, sources_pb2, sources_pb2_grpc
from lensmount_server.catalog import Catalog
from lensmount_server.frames import Want
from lensmount_server.hub import MAX_QUEUE, Hub, HubItem
from lensmount_server.services import convert
from lensmount_server.services.errors import Context
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState, SourceStatus
from lensmount_server.streams import DropPolicy

STATES = {state: sources_pb2.SourceState.Value(f"SOURCE_STATE_{state.name}") for state in SourceState}
POLICY_NUMBERS = {policy: number for number, policy in convert.POLICIES.items()}
DEFAULT_QUEUE = 256


class SourceService(sources_pb2_grpc.SourceServiceServicer):
    """Translates between the wire, the source manager and the hub."""

    def __init__(self, catalog: Catalog, sources: SourceManager, hub: Hub) -> None:
        self._catalog = catalog
        self._sources = sources
        self._hub = hub

    async def AddSource(self, request: sources_pb2.AddSourceRequest, context: Context) -> sources_pb2.Source:
        """Start to pull a video; its tasks must be live."""
        config = request.source
        policy = convert.POLICIES.get(config.drop_policy, DropPolicy.NEWEST)
        wants = convert.wants(config.tasks)
        await self._catalog.ensure(wants)
        spec = SourceSpec(config.name, config.url, wants, policy, config.loop, config.deadline_ms, config.priority)
        return _source(await self._sources.add(spec))

    async def UpdateSource(self, request: sources_pb2.UpdateSourceRequest, context: Context) -> sources_pb2.Source:
        """Not in this release."""
        fix = "remove the source and add it again"
        raise UnimplementedError("UpdateSource comes with a later release", fix=fix)

    async def RemoveSource(
        self, request: sources_pb2.RemoveSourceRequest, context: Context
    ) -> sources_pb2.RemoveSourceResponse:
        """Stop a source; its thread is gone when this returns."""
        await self._sources.remove(request.name)
        return sources_pb2.RemoveSourceResponse()

    async def ListSources(
        self, request: sources_pb2.ListSourcesRequest, context: Context
    ) -> sources_pb2.ListSourcesResponse:
        """Every source with its state and account."""
        return sources_pb2.ListSourcesResponse(sources=map(_source, self._sources.list()))

    async def GetSource(self, request: sources_pb2.GetSourceRequest, context: Context) -> sources_pb2.Source:
        """One source."""
        return _source(self._sources.get(request.name))

    async def WatchResults(
        self, request: sources_pb2.WatchResultsRequest, context: Context
    ) -> AsyncIterator[sources_pb2.WatchResultsResponse]:
        """Results and state changes as they come; the subscriber's own oldest are lost when it is slow."""
        size = request.queue_size or DEFAULT_QUEUE
        if size > MAX_QUEUE:
            fix = f"ask for 1 to {MAX_QUEUE}"
            raise InvalidInputError("too long a queue", field="queue_size", value=size, fix=fix)
        for name in request.sources:
            self._sources.get(name)
        with self._hub.subscribe(request.sources, request.tasks, size, with_frames=request.with_jpeg) as subscription:
            async for item in subscription:
                yield await _response(item, with_jpeg=request.with_jpeg)


async def _response(item: HubItem, *, with_jpeg: bool) -> sources_pb2.WatchResultsResponse:
    if isinstance(item.message, SourceStatus):
        return sources_pb2.WatchResultsResponse(source=_source(item.message), lost=item.lost)
    frame = item.message.frame if with_jpeg else None
    jpeg = await asyncio.to_thread(frame.picture.jpeg) if frame else b""
    return sources_pb2.WatchResultsResponse(result=convert.stream_result(item.message, jpeg), lost=item.lost)


def _source(status: SourceStatus) -> sources_pb2.Source:
    spec, account = status.spec, status.account
    config = sources_pb2.SourceConfig(
        name=spec.name,
        url=spec.shown_url,
        tasks=[_task(want) for want in spec.wants],
        drop_policy=POLICY_NUMBERS[spec.policy],
        loop=spec.loop,
        deadline_ms=spec.deadline_ms,
        priority=spec.priority,
    )
    return sources_pb2.Source(
        config=config,
        state=STATES[status.state],
        reason=status.reason,
        decoded=account.decoded,
        answered=account.answered,
        dropped=convert.drops(account.dropped),
        fps=status.fps,
        width=status.width,
        height=status.height,
    )


def _task(want: Want) -> common_pb2.TaskRef:
    return common_pb2.TaskRef(task=want.task, alias=want.alias, version=want.version, max_fps=want.max_fps)
