"""What the asyncio client does with adapter versions: the methods of `lensmount.adapter_methods`, awaited."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from lensmount import adapter_calls as calls
from lensmount import convert, results
from lensmount.aio_calls import Ending, answer, in_thread, send
from lensmount.aio_streams import AsyncAdapterWatch
from lensmount.archive import Archive, Progress, Upload, open_archive, upload_messages
from lensmount.calls import Unary
from lensmount.channel import Metadata
from lensmount.errors import UnavailableError, UnimplementedError
from lensmount.exporting import Exporting
from lensmount.status import from_rpc_error
from lensmount.tasks import TaskRef
from lensmount.v1.adapters_pb2_grpc import AdapterServiceStub

AnswerT = TypeVar("AnswerT")

# A connection that breaks in the middle of an upload is tried again so often, from where it broke.
UPLOADS = 3


class AsyncAdapterMethods(ABC):
    """Register, list, promote, roll back, pin, delete, export, watch."""

    address: str

    async def register(
        self,
        path: str | os.PathLike[str],
        *,
        alias: str | None = None,
        tags: Mapping[str, str] | None = None,
        validate_only: bool = False,
        timeout: float | None = 600.0,  # noqa: ASYNC109 - a gRPC deadline, which the server is told
        progress: Progress | None = None,
    ) -> results.Registration:
        """Upload an adapter package, a folder or a .zip of one; the server checks it to the last logit.

        With `alias`, that alias points at the new version once every check passed. With `validate_only` every check
        is run and nothing is kept. `progress` is told the bytes sent and the bytes in all after each chunk. An upload
        that breaks off goes on where it ended, in this call or the next.
        """
        with ExitStack() as stack:
            archive = await asyncio.to_thread(stack.enter_context, open_archive(path))
            offset = await self._received(archive)
            for attempt in range(1, UPLOADS + 1):
                upload = Upload(alias or "", tags or {}, validate_only, offset)
                try:
                    return await self._upload(archive, upload, timeout, progress)
                except UnavailableError:
                    if attempt == UPLOADS:
                        raise
                    # No more than before where the server has not come to read what arrived.
                    offset = await self._received_before_the_break(archive)
        raise AssertionError("unreachable")

    async def adapters(
        self,
        task: str = "",
        *,
        alias: str = "",
        tags: Mapping[str, str] | None = None,
        query: str = "",
        pinned_only: bool = False,
    ) -> AsyncIterator[results.Adapter]:
        """Registered versions, newest first, of one task or of all; pages are fetched as needed.

        Only those that `alias` points at, that have all of `tags` (an empty value: the key alone), that hold `query`
        in task, strategy, labels or tags, that are pinned.
        """
        token: str | None = ""
        while token is not None:
            page, next_token = await self._unary(
                calls.adapters(task, alias, tags or {}, query, token, pinned_only=pinned_only)
            )
            for each in page:
                yield each
            token = next_token or None

    async def adapter(self, ref: str | TaskRef) -> results.Adapter:
        """The version that `defect`, `defect@canary` or `defect:3` stands for now."""
        return await self._unary(calls.adapter(ref))

    async def set_alias(
        self,
        task: str,
        version: int,
        alias: str = "live",
        expected_version: int | None = None,
        etag: str = "",
        wait: float = 0.0,
    ) -> results.AliasChange:
        """Point an alias at a version, between two batches of running streams.

        With `expected_version` or `etag` it raises ConflictError unless the alias points there, or is as it was, now.
        Waits at most `wait` seconds for the first frame that the version answers.
        """
        return await self._unary(calls.set_alias(task, version, alias, expected_version, etag, wait))

    async def rollback(
        self, task: str, alias: str = "live", version: int | None = None, etag: str = "", wait: float = 0.0
    ) -> results.AliasChange:
        """Point an alias back at the version before, or at one that it pointed at; again, and it goes further back.

        `etag` and `wait` as in `set_alias`.
        """
        return await self._unary(calls.rollback(task, alias, version, etag, wait))

    async def tag(
        self, ref: str | TaskRef, tags: Mapping[str, str] | None = None, remove: Collection[str] = ()
    ) -> results.Adapter:
        """Set and remove tags of a version."""
        return await self._unary(calls.update_adapter(ref, tags or {}, remove, pin=None))

    async def pin(self, ref: str | TaskRef, reason: str = "") -> results.Adapter:
        """Keep a version from being deleted or collected, until `unpin`."""
        return await self._unary(calls.update_adapter(ref, {}, (), pin=True, reason=reason))

    async def unpin(self, ref: str | TaskRef) -> results.Adapter:
        """Take a pin away."""
        return await self._unary(calls.update_adapter(ref, {}, (), pin=False))

    async def delete_adapter(self, task: str, version: int) -> None:
        """Delete a version that no alias points at and nobody pinned; streams that ask for its number end."""
        await self._unary(calls.delete_adapter(task, version))

    async def delete_alias(self, task: str, alias: str, etag: str = "") -> None:
        """Take an alias away; streams that follow it end."""
        await self._unary(calls.delete_alias(task, alias, etag))

    async def delete_task(self, task: str) -> int:
        """Delete a task with its aliases and versions, and return how many; streams that want it end."""
        return await self._unary(calls.delete_task(task))

    async def collect(self, keep: int, task: str = "", *, dry_run: bool = False) -> results.Collected:
        """Delete versions that nothing needs beyond the newest `keep` of each task; or say which, with `dry_run`."""
        return await self._unary(calls.collect(keep, task, dry_run=dry_run))

    async def diff(self, before: str | TaskRef, after: str | TaskRef) -> str:
        """What is different between two registered versions, as JSON."""
        return await self._unary(calls.diff(before, after))

    async def export(
        self, ref: str | TaskRef, path: str | os.PathLike[str], progress: Progress | None = None
    ) -> results.Export:
        """Write a version's package into a new folder, or a new .zip file."""
        call = AdapterServiceStub(self._channel).ExportAdapter(calls.export_request(ref))
        ending = Ending(call, self.address)
        with Exporting(Path(path), progress) as export:
            try:
                async for message in call:
                    await asyncio.to_thread(export.take, message)
            except grpc.RpcError as error:
                raise (await ending.error(error) or from_rpc_error(error, self.address)) from error
            return await asyncio.to_thread(export.finish)

    async def events(self, task: str = "", alias: str = "") -> AsyncIterator[results.AdapterEvent]:
        """The registry's journal, newest first: who did what, when, from where; pages are fetched as needed."""
        token: str | None = ""
        while token is not None:
            page, next_token = await self._unary(calls.events(task, alias, token))
            for each in page:
                yield each
            token = next_token or None

    def watch_adapters(self, tasks: Collection[str] = (), after: int | None = None) -> AsyncAdapterWatch:
        """Events of these tasks (all when empty) as they happen, on any server of the registry.

        `after` is the sequence of the last event that was seen: nothing is missed in between.
        """
        request = calls.watch_request(tasks, after)
        return AsyncAdapterWatch(lambda: AdapterServiceStub(self._channel).WatchAdapters(request), self.address)

    async def _received(self, archive: Archive) -> int:
        try:
            return await self._unary(calls.upload(archive))
        except UnimplementedError:  # an earlier release
            return 0

    async def _received_before_the_break(self, archive: Archive) -> int:
        """The same on a new connection: the one that broke may take the first call along."""
        with suppress(UnavailableError):
            return await self._received(archive)
        return await self._received(archive)

    async def _upload(
        self, archive: Archive, upload: Upload, limit_s: float | None, progress: Progress | None
    ) -> results.Registration:
        call = AdapterServiceStub(self._channel).RegisterAdapter(timeout=limit_s, metadata=self._metadata)
        ending = Ending(call, self.address)
        await send(call, in_thread(upload_messages(archive, upload, progress)))
        return convert.registration(await answer(call, ending))

    @property
    @abstractmethod
    def _metadata(self) -> Metadata: ...

    @property
    @abstractmethod
    def _channel(self) -> grpc.aio.Channel: ...

    @abstractmethod
    async def _unary(
        self, call: Unary[AnswerT], *, limit_s: float | None = None, wait_for_ready: bool | None = None
    ) -> AnswerT: ...
