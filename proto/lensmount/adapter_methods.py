"""What the blocking client does with adapter versions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import grpc

from lensmount import adapter_calls as calls
from lensmount import convert, results
from lensmount.archive import Archive, Progress, Upload, open_archive, upload_messages
from lensmount.calls import Unary
from lensmount.channel import Metadata
from lensmount.errors import UnavailableError, UnimplementedError
from lensmount.exporting import Exporting
from lensmount.status import from_rpc_error
from lensmount.streams import AdapterWatch, Guarded
from lensmount.tasks import TaskRef
from lensmount.v1.adapters_pb2_grpc import AdapterServiceStub

AnswerT = TypeVar("AnswerT")

# A connection that breaks in the middle of an upload is tried again so often, from where it broke.
UPLOADS = 3


class AdapterMethods(ABC):
    """Register, list, promote, roll back, pin, delete, export, watch."""

    address: str

    def register(
        self,
        path: str | os.PathLike[str],
        *,
        alias: str | None = None,
        tags: Mapping[str, str] | None = None,
        validate_only: bool = False,
        timeout: float | None = 600.0,
        progress: Progress | None = None,
    ) -> results.Registration:
        """Upload an adapter package, a folder or a .zip of one; the server checks it to the last logit.

        With `alias`, that alias points at the new version once every check passed. With `validate_only` every check
        is run and nothing is kept. `progress` is told the bytes sent and the bytes in all after each chunk. An upload
        that breaks off goes on where it ended, in this call or the next.
        """
        with open_archive(path) as archive:
            offset = self._received(archive)
            for attempt in range(1, UPLOADS + 1):
                upload = Upload(alias or "", tags or {}, validate_only, offset)
                try:
                    return self._upload(archive, upload, timeout, progress)
                except UnavailableError:
                    if attempt == UPLOADS:
                        raise
                    # No more than before where the server has not come to read what arrived.
                    offset = self._received_before_the_break(archive)
        raise AssertionError("unreachable")

    def adapters(
        self,
        task: str = "",
        *,
        alias: str = "",
        tags: Mapping[str, str] | None = None,
        query: str = "",
        pinned_only: bool = False,
    ) -> Iterator[results.Adapter]:
        """Registered versions, newest first, of one task or of all; pages are fetched as needed.

        Only those that `alias` points at, that have all of `tags` (an empty value: the key alone), that hold `query`
        in task, strategy, labels or tags, that are pinned.
        """
        token: str | None = ""
        while token is not None:
            page, next_token = self._unary(
                calls.adapters(task, alias, tags or {}, query, token, pinned_only=pinned_only)
            )
            yield from page
            token = next_token or None

    def adapter(self, ref: str | TaskRef) -> results.Adapter:
        """The version that `defect`, `defect@canary` or `defect:3` stands for now."""
        return self._unary(calls.adapter(ref))

    def set_alias(
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
        return self._unary(calls.set_alias(task, version, alias, expected_version, etag, wait))

    def rollback(
        self, task: str, alias: str = "live", version: int | None = None, etag: str = "", wait: float = 0.0
    ) -> results.AliasChange:
        """Point an alias back at the version before, or at one that it pointed at; again, and it goes further back.

        `etag` and `wait` as in `set_alias`.
        """
        return self._unary(calls.rollback(task, alias, version, etag, wait))

    def tag(
        self, ref: str | TaskRef, tags: Mapping[str, str] | None = None, remove: Collection[str] = ()
    ) -> results.Adapter:
        """Set and remove tags of a version."""
        return self._unary(calls.update_adapter(ref, tags or {}, remove, pin=None))

    def pin(self, ref: str | TaskRef, reason: str = "") -> results.Adapter:
        """Keep a version from being deleted or collected, until `unpin`."""
        return self._unary(calls.update_adapter(ref, {}, (), pin=True, reason=reason))

    def unpin(self, ref: str | TaskRef) -> results.Adapter:
        """Take a pin away."""
        return self._unary(calls.update_adapter(ref, {}, (), pin=False))

    def delete_adapter(self, task: str, version: int) -> None:
        """Delete a version that no alias points at and nobody pinned; streams that ask for its number end."""
        self._unary(calls.delete_adapter(task, version))

    def delete_alias(self, task: str, alias: str, etag: str = "") -> None:
        """Take an alias away; streams that follow it end."""
        self._unary(calls.delete_alias(task, alias, etag))

    def delete_task(self, task: str) -> int:
        """Delete a task with its aliases and versions, and return how many; streams that want it end."""
        return self._unary(calls.delete_task(task))

    def collect(self, keep: int, task: str = "", *, dry_run: bool = False) -> results.Collected:
        """Delete versions that nothing needs beyond the newest `keep` of each task; or say which, with `dry_run`."""
        return self._unary(calls.collect(keep, task, dry_run=dry_run))

    def diff(self, before: str | TaskRef, after: str | TaskRef) -> str:
        """What is different between two registered versions, as JSON."""
        return self._unary(calls.diff(before, after))

    def export(
        self, ref: str | TaskRef, path: str | os.PathLike[str], progress: Progress | None = None
    ) -> results.Export:
        """Write a version's package into a new folder, or a new .zip file."""
        with Exporting(Path(path), progress) as export:
            try:
                for message in AdapterServiceStub(self._channel).ExportAdapter(calls.export_request(ref)):
                    export.take(message)
            except grpc.RpcError as error:
                raise from_rpc_error(error, self.address) from error
            return export.finish()

    def events(self, task: str = "", alias: str = "") -> Iterator[results.AdapterEvent]:
        """The registry's journal, newest first: who did what, when, from where; pages are fetched as needed."""
        token: str | None = ""
        while token is not None:
            page, next_token = self._unary(calls.events(task, alias, token))
            yield from page
            token = next_token or None

    def watch_adapters(self, tasks: Collection[str] = (), after: int | None = None) -> AdapterWatch:
        """Events of these tasks (all when empty) as they happen, on any server of the registry.

        `after` is the sequence of the last event that was seen: nothing is missed in between.
        """
        request = calls.watch_request(tasks, after)
        open_call = AdapterServiceStub(self._channel).WatchAdapters
        return AdapterWatch(lambda: open_call(request), self.address)

    def _received(self, archive: Archive) -> int:
        try:
            return self._unary(calls.upload(archive))
        except UnimplementedError:  # an earlier release
            return 0

    def _received_before_the_break(self, archive: Archive) -> int:
        """The same on a new connection: the one that broke may take the first call along."""
        with suppress(UnavailableError):
            return self._received(archive)
        return self._received(archive)

    def _upload(
        self, archive: Archive, upload: Upload, timeout: float | None, progress: Progress | None
    ) -> results.Registration:
        messages = Guarded(upload_messages(archive, upload, progress))
        try:
            answer = AdapterServiceStub(self._channel).RegisterAdapter(
                messages, timeout=timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise messages.error or from_rpc_error(error, self.address) from error
        if messages.error:
            raise messages.error
        return convert.registration(answer)

    @property
    @abstractmethod
    def _metadata(self) -> Metadata: ...

    @property
    @abstractmethod
    def _channel(self) -> grpc.Channel: ...

    @abstractmethod
    def _unary(
        self, call: Unary[AnswerT], *, timeout: float | None = None, wait_for_ready: bool | None = None
    ) -> AnswerT: ...
