"""AdapterService: register, list, promote, roll back, delete, watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from lensmount.errors import InvalidInputError
from lensmount.v1 import adapters_pb2, adapters_pb2_grpc
from lensmount_adapters.diff import diff
from lensmount_adapters.package import read_package
from lensmount_server.catalog import Catalog
from lensmount_server.frames import VersionId
from lensmount_server.registrar import Request
from lensmount_server.registry import Entry, Expected, Record
from lensmount_server.services import convert, events, names
from lensmount_server.services.caller import caller
from lensmount_server.services.errors import Context
from lensmount_server.services.export import exported
from lensmount_server.services.upload import announced, receive_archive, receive_header
from lensmount_server.uploads import Uploads
from lensmount_server.whereabouts import Whereabouts

MAX_PATIENCE_MS = 60_000


class AdapterService(adapters_pb2_grpc.AdapterServiceServicer):
    """Translates between the wire and the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._registry = catalog.registry
        self._uploads = Uploads(catalog.registry.directory / "uploads")

    async def RegisterAdapter(
        self, request_iterator: AsyncIterator[adapters_pb2.RegisterAdapterRequest], context: Context
    ) -> adapters_pb2.RegisterAdapterResponse:
        """Take a package through the gate; set the alias it asked for."""
        header = await receive_header(request_iterator)
        alias = names.checked(header.set_alias, "header.set_alias") if header.set_alias else ""
        if alias and header.validate_only:
            fix = "leave one of them away"
            raise InvalidInputError("nothing is kept of a check", field="header.set_alias", value=alias, fix=fix)
        asked = Request(caller(context), names.tags(header.tags, "header.tags"), header.validate_only)
        receive = partial(receive_archive, request_iterator, header, self._uploads)
        done = await self._catalog.register(receive, alias, asked)
        return convert.registration(done, self._where(done.record))

    async def GetUpload(self, request: adapters_pb2.GetUploadRequest, context: Context) -> adapters_pb2.Upload:
        """Where an upload that broke off may go on."""
        what = announced(request.size_bytes, request.sha256)
        return adapters_pb2.Upload(received_bytes=self._uploads.received(what))

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """A page of versions, newest first."""
        size, before = names.page(request.page_size, request.page_token)
        records = await asyncio.to_thread(self._registry.page, size + 1, before, convert.record_filter(request))
        page, more = records[:size], len(records) > size
        token = str(page[-1].seq) if more else ""
        return adapters_pb2.ListAdaptersResponse(adapters=map(self._adapter, page), next_page_token=token)

    async def GetAdapter(self, request: adapters_pb2.GetAdapterRequest, context: Context) -> adapters_pb2.Adapter:
        """One version, by number or alias."""
        return self._adapter(await self._record(request.adapter))

    async def UpdateAdapter(self, request: adapters_pb2.UpdateAdapterRequest, context: Context) -> adapters_pb2.Adapter:
        """Change tags and pin."""
        put, drop = names.tags(request.set_tags, "set_tags"), names.keys(request.remove_tags, "remove_tags")
        reason = names.note(request.pin_reason, "pin_reason")
        if reason and not request.pinned:
            raise InvalidInputError("nothing is pinned", field="pin_reason", value=reason, fix="set `pinned` with it")
        by, record = caller(context), await self._record(request.adapter)
        names.check_count({*record.tags} - {*drop} | {*put}, "set_tags")
        found = record.id
        if request.HasField("pinned"):
            pin = self._registry.pin
            await asyncio.to_thread(pin, found.task, found.version, reason if request.pinned else None, by)
        if put or drop:
            await asyncio.to_thread(self._registry.tag, found.task, found.version, put, drop, by)
        self._catalog.follower.kick()
        return self._adapter(await asyncio.to_thread(self._registry.get, found.task, found.version))

    async def SetAlias(self, request: adapters_pb2.SetAliasRequest, context: Context) -> adapters_pb2.SetAliasResponse:
        """Promote a version."""
        alias = names.checked(request.alias or "live", "alias")
        version = request.expected_version if request.HasField("expected_version") else None
        done = await self._catalog.promote(
            request.task,
            alias,
            request.version,
            Expected(version, request.etag or None),
            caller(context),
            _patience(request.first_answer_timeout_ms),
        )
        return convert.promotion(done)

    async def Rollback(self, request: adapters_pb2.RollbackRequest, context: Context) -> adapters_pb2.SetAliasResponse:
        """Point an alias back."""
        done = await self._catalog.roll_back(
            request.task,
            request.alias or "live",
            request.version or None,
            request.etag or None,
            caller(context),
            _patience(request.first_answer_timeout_ms),
        )
        return convert.promotion(done)

    async def DeleteAlias(
        self, request: adapters_pb2.DeleteAliasRequest, context: Context
    ) -> adapters_pb2.DeleteAliasResponse:
        """Take an alias away."""
        expected = Expected(etag=request.etag or None)
        await self._catalog.change(self._registry.delete_alias, request.task, request.alias, expected, caller(context))
        return adapters_pb2.DeleteAliasResponse()

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, context: Context
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Remove a version."""
        await self._catalog.change(self._registry.delete, request.task, request.version, caller(context))
        return adapters_pb2.DeleteAdapterResponse()

    async def DeleteTask(
        self, request: adapters_pb2.DeleteTaskRequest, context: Context
    ) -> adapters_pb2.DeleteTaskResponse:
        """Remove a task with all of its versions."""
        count = await self._catalog.change(self._registry.delete_task, request.task, caller(context))
        return adapters_pb2.DeleteTaskResponse(versions=count)

    async def CollectAdapters(
        self, request: adapters_pb2.CollectAdaptersRequest, context: Context
    ) -> adapters_pb2.CollectAdaptersResponse:
        """Remove versions that nothing needs."""
        if not request.keep:
            fix = "say how many of the newest versions of each task stay, 10 for example"
            raise InvalidInputError("at least 1", field="keep", value=0, fix=fix)
        done = await self._catalog.collect(request.keep, request.task, caller(context), dry_run=request.dry_run)
        removed = map(convert.version_id, done.removed)
        return adapters_pb2.CollectAdaptersResponse(removed=removed, size_bytes=done.size_bytes)

    async def DiffAdapters(
        self, request: adapters_pb2.DiffAdaptersRequest, context: Context
    ) -> adapters_pb2.DiffAdaptersResponse:
        """What is different between two versions."""
        before, after = await self._record(request.before), await self._record(request.after)
        found = await self._catalog.residency.beside(self._diff, before.id, after.id)
        ids = convert.version_id(before.id), convert.version_id(after.id)
        return adapters_pb2.DiffAdaptersResponse(before=ids[0], after=ids[1], json=found)

    async def ExportAdapter(
        self, request: adapters_pb2.ExportAdapterRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.ExportAdapterResponse]:
        """A package as it was registered."""
        record = await self._record(request.adapter)
        async with aclosing(exported(self._registry, record.id)) as responses:
            async for response in responses:
                yield response

    async def ListEvents(
        self, request: adapters_pb2.ListEventsRequest, context: Context
    ) -> adapters_pb2.ListEventsResponse:
        """A page of the journal, newest first."""
        size, before = names.page(request.page_size, request.page_token)
        found = await asyncio.to_thread(self._registry.events, size + 1, before, request.task, request.alias)
        page, more = found[:size], len(found) > size
        token = str(page[-1].seq) if more else ""
        return adapters_pb2.ListEventsResponse(events=map(events.event, page), next_page_token=token)

    async def WatchAdapters(
        self, request: adapters_pb2.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.AdapterEvent]:
        """The journal as it is written, and first answers."""
        after = request.after_sequence if request.HasField("after_sequence") else None
        async with aclosing(self._catalog.follower.watch(frozenset(request.tasks), after)) as news:
            await context.send_initial_metadata(())  # from here on nothing is missed
            async for each in news:
                yield events.event(each) if isinstance(each, Entry) else events.first_answer(*each)

    async def _record(self, task: convert.Ref) -> Record:
        want = convert.want(task)
        if want.version:
            return await asyncio.to_thread(self._registry.get, want.task, want.version)
        return await asyncio.to_thread(self._registry.resolve, want.task, want.alias)

    def _diff(self, before: VersionId, after: VersionId) -> str:
        found = diff(read_package(self._registry.folder(before)), read_package(self._registry.folder(after)))
        return json.dumps(found.plain(), ensure_ascii=False)

    def _adapter(self, record: Record) -> adapters_pb2.Adapter:
        return convert.adapter(record, self._where(record))

    def _where(self, record: Record) -> Whereabouts:
        return self._catalog.residency.whereabouts(record.id.content_hash)


def _patience(milliseconds: int) -> float:
    if milliseconds > MAX_PATIENCE_MS:
        fix = f"wait for at most {MAX_PATIENCE_MS:,} ms, and watch: lensmount adapters watch"
        raise InvalidInputError("too long", field="first_answer_timeout_ms", value=milliseconds, fix=fix)
    return milliseconds / 1e3
