"""SourceService: videos that the server pulls, and the results of all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from lensmount.errors import InvalidInputError
from lensmount.v1 import sources_pb2, sources_pb2_grpc
from lensmount_server.catalog import Catalog
from lensmount_server.hub import MAX_QUEUE, Hub, HubItem, Message
from lensmount_server.services import convert
from lensmount_server.services.errors import Context
from lensmount_server.services.source_convert import changed, source, spec_of
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceStatus
from lensmount_server.workers.remote import HandedPicture

DEFAULT_QUEUE = 256


class SourceService(sources_pb2_grpc.SourceServiceServicer):
    """Translates between the wire, the source manager and the hub."""

    def __init__(self, catalog: Catalog, sources: SourceManager, hub: Hub) -> None:
        self._catalog = catalog
        self._sources = sources
        self._hub = hub

    async def AddSource(self, request: sources_pb2.AddSourceRequest, context: Context) -> sources_pb2.Source:
        """Start to pull a video; its tasks must be live."""
        spec = spec_of(request.source)
        await self._catalog.note_use(spec.wants)
        await self._catalog.ensure(spec.wants)
        return source(await self._sources.add(spec))

    async def UpdateSource(self, request: sources_pb2.UpdateSourceRequest, context: Context) -> sources_pb2.Source:
        """Change some fields while it runs; tasks that it gets must be live."""

        def change(spec: SourceSpec) -> SourceSpec:
            return changed(spec, request.source, request.update_mask.paths)

        name = request.source.name
        wants = change(self._sources.spec(name)).wants
        await self._catalog.note_use(wants)
        await self._catalog.ensure(wants)
        return source(await self._sources.update(name, change))

    async def PauseSource(self, request: sources_pb2.PauseSourceRequest, context: Context) -> sources_pb2.Source:
        """Stop pulling a source and keep it."""
        return source(await self._sources.pause(request.name))

    async def ResumeSource(self, request: sources_pb2.ResumeSourceRequest, context: Context) -> sources_pb2.Source:
        """Pull it again."""
        return source(await self._sources.resume(request.name))

    async def RemoveSource(
        self, request: sources_pb2.RemoveSourceRequest, context: Context
    ) -> sources_pb2.RemoveSourceResponse:
        """Stop a source; nothing of it runs any more when this returns."""
        await self._sources.remove(request.name)
        return sources_pb2.RemoveSourceResponse()

    async def ListSources(
        self, request: sources_pb2.ListSourcesRequest, context: Context
    ) -> sources_pb2.ListSourcesResponse:
        """Every source with its state and account."""
        return sources_pb2.ListSourcesResponse(sources=map(source, self._sources.list()))

    async def GetSource(self, request: sources_pb2.GetSourceRequest, context: Context) -> sources_pb2.Source:
        """One source."""
        return source(self._sources.get(request.name))

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
            lost = 0
            async for item in subscription:
                lost += item.lost
                if not (request.with_jpeg and _came_before(item.message)):
                    yield _response(replace(item, lost=lost), with_jpeg=request.with_jpeg)
                    lost = 0


def _came_before(message: Message) -> bool:
    """Whether a frame was under way when its pictures were asked for."""
    if isinstance(message, SourceStatus) or message.frame is None:
        return False
    picture = message.frame.picture
    return isinstance(picture, HandedPicture) and picture.encoded is None


def _response(item: HubItem, *, with_jpeg: bool) -> sources_pb2.WatchResultsResponse:
    if isinstance(item.message, SourceStatus):
        return sources_pb2.WatchResultsResponse(source=source(item.message), lost=item.lost)
    frame = item.message.frame
    jpeg = frame.picture.jpeg() if with_jpeg and frame else b""  # its worker has compressed it
    return sources_pb2.WatchResultsResponse(result=convert.stream_result(item.message, jpeg), lost=item.lost)
