"""AdapterService: register, list, promote."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial

from lensmount.errors import InvalidInputError, UnimplementedError
from lensmount.v1 import adapters_pb2, adapters_pb2_grpc
from lensmount_server.catalog import Catalog
from lensmount_server.registry import Record
from lensmount_server.services import convert
from lensmount_server.services.errors import Context
from lensmount_server.services.upload import receive_archive, receive_header
from lensmount_server.whereabouts import Whereabouts

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_PAGE = 1000
MAX_TIME_NS = 2**63 - 1


class AdapterService(adapters_pb2_grpc.AdapterServiceServicer):
    """Translates between the wire and the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def RegisterAdapter(
        self, request_iterator: AsyncIterator[adapters_pb2.RegisterAdapterRequest], context: Context
    ) -> adapters_pb2.RegisterAdapterResponse:
        """Take a package through the gate; set the alias it asked for."""
        header = await receive_header(request_iterator)
        alias = _name(header.set_alias, "header.set_alias") if header.set_alias else ""
        receive = partial(receive_archive, request_iterator, header)
        done = await self._catalog.register(receive, alias)
        return convert.registration(done, self._where(done.record))

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """A page of versions, newest first."""
        size = request.page_size or 100
        if size > MAX_PAGE:
            fix = f"ask for 1 to {MAX_PAGE}"
            raise InvalidInputError("too large a page", field="page_size", value=size, fix=fix)
        after = _parse_token(request.page_token) if request.page_token else None
        records = await asyncio.to_thread(self._catalog.registry.page, request.task, size + 1, after)
        page, more = records[:size], len(records) > size
        token = f"{page[-1].registered_time_ns}-{page[-1].id.content_hash}" if more else ""
        return adapters_pb2.ListAdaptersResponse(adapters=map(self._adapter, page), next_page_token=token)

    async def GetAdapter(self, request: adapters_pb2.GetAdapterRequest, context: Context) -> adapters_pb2.Adapter:
        """One version, by number or alias."""
        want = convert.want(request.adapter)
        registry = self._catalog.registry
        if want.version:
            return self._adapter(await asyncio.to_thread(registry.get, want.task, want.version))
        return self._adapter(await asyncio.to_thread(registry.resolve, want.task, want.alias))

    async def SetAlias(self, request: adapters_pb2.SetAliasRequest, context: Context) -> adapters_pb2.SetAliasResponse:
        """Promote a version."""
        alias = _name(request.alias or "live", "alias")
        expected = request.expected_version if request.HasField("expected_version") else None
        return convert.promotion(await self._catalog.promote(request.task, alias, request.version, expected))

    async def Rollback(self, request: adapters_pb2.RollbackRequest, context: Context) -> adapters_pb2.SetAliasResponse:
        """Not in this release."""
        raise UnimplementedError("Rollback comes with a later release", fix="set the alias: lensmount promote")

    async def DeleteAdapter(
        self, request: adapters_pb2.DeleteAdapterRequest, context: Context
    ) -> adapters_pb2.DeleteAdapterResponse:
        """Not in this release."""
        raise UnimplementedError("DeleteAdapter comes with a later release", fix="leave the version where it is")

    async def WatchAdapters(
        self, request: adapters_pb2.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[adapters_pb2.AdapterEvent]:
        """Not in this release."""
        raise UnimplementedError("WatchAdapters comes with a later release", fix="poll `lensmount adapters list`")
        yield adapters_pb2.AdapterEvent()

    def _adapter(self, record: Record) -> adapters_pb2.Adapter:
        return convert.adapter(record, self._where(record))

    def _where(self, record: Record) -> Whereabouts:
        return self._catalog.residency.whereabouts(record.id.content_hash)


def _name(text: str, field: str) -> str:
    if not NAME.fullmatch(text):
        fix = "use 1 to 64 of A-Z a-z 0-9 . _ - and start with a letter or digit"
        raise InvalidInputError("not a name", field=field, value=text, fix=fix)
    return text


def _parse_token(token: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,19})-([0-9a-f]{64})", token)
    if match is None or int(match[1]) > MAX_TIME_NS:
        fix = "give next_page_token of the page before, or nothing"
        raise InvalidInputError("not a page token", field="page_token", value=token, fix=fix)
    return int(match[1]), match[2]
