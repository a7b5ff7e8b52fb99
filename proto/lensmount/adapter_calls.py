"""The calls about adapter versions that ask and answer once, described once for both clients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from lensmount import convert, results
from lensmount.archive import Archive
from lensmount.calls import Unary, parser, version_number, wire_task_ref
from lensmount.errors import InvalidInputError
from lensmount.tasks import TaskRef, task_ref
from lensmount.v1 import adapters_pb2 as pb

SERVICE: Final = "/lensmount.v1.AdapterService/"
MAX_WAIT_S = 60.0


def adapters(
    task: str, alias: str, tags: Mapping[str, str], query: str, page_token: str, *, pinned_only: bool
) -> Unary[tuple[list[results.Adapter], str]]:
    """One page of `ListAdapters`."""
    request = pb.ListAdaptersRequest(
        task=task, alias=alias, tags=tags, query=query, page_token=page_token, pinned_only=pinned_only
    )
    return Unary(SERVICE + "ListAdapters", request, parser(pb.ListAdaptersResponse, convert.adapter_page))


def adapter(ref: str | TaskRef) -> Unary[results.Adapter]:
    """`GetAdapter`."""
    request = pb.GetAdapterRequest(adapter=wire_task_ref(task_ref(ref)))
    return Unary(SERVICE + "GetAdapter", request, parser(pb.Adapter, convert.adapter))


def update_adapter(
    ref: str | TaskRef, set_tags: Mapping[str, str], remove_tags: Collection[str], *, pin: bool | None, reason: str = ""
) -> Unary[results.Adapter]:
    """`UpdateAdapter`."""
    request = pb.UpdateAdapterRequest(
        adapter=wire_task_ref(task_ref(ref)),
        set_tags=set_tags,
        remove_tags=remove_tags,
        pinned=pin,
        pin_reason=reason,
    )
    return Unary(SERVICE + "UpdateAdapter", request, parser(pb.Adapter, convert.adapter))


def set_alias(
    task: str, version: int, alias: str, expected_version: int | None, etag: str, wait: float
) -> Unary[results.AliasChange]:
    """`SetAlias`."""
    request = pb.SetAliasRequest(
        task=task,
        alias=alias,
        version=version_number("version", version),
        expected_version=None if expected_version is None else version_number("expected_version", expected_version),
        etag=etag,
        first_answer_timeout_ms=_milliseconds(wait),
    )
    return Unary(SERVICE + "SetAlias", request, parser(pb.SetAliasResponse, convert.alias_change))


def rollback(task: str, alias: str, version: int | None, etag: str, wait: float) -> Unary[results.AliasChange]:
    """`Rollback`."""
    request = pb.RollbackRequest(
        task=task,
        alias=alias,
        version=version_number("version", version or 0),
        etag=etag,
        first_answer_timeout_ms=_milliseconds(wait),
    )
    return Unary(SERVICE + "Rollback", request, parser(pb.SetAliasResponse, convert.alias_change))


def delete_alias(task: str, alias: str, etag: str) -> Unary[None]:
    """`DeleteAlias`."""
    request = pb.DeleteAliasRequest(task=task, alias=alias, etag=etag)
    return Unary(SERVICE + "DeleteAlias", request, parser(pb.DeleteAliasResponse, lambda _: None))


def delete_adapter(task: str, version: int) -> Unary[None]:
    """`DeleteAdapter`."""
    request = pb.DeleteAdapterRequest(task=task, version=version_number("version", version))
    return Unary(SERVICE + "DeleteAdapter", request, parser(pb.DeleteAdapterResponse, lambda _: None))


def delete_task(task: str) -> Unary[int]:
    """`DeleteTask`."""
    request = pb.DeleteTaskRequest(task=task)
    return Unary(SERVICE + "DeleteTask", request, parser(pb.DeleteTaskResponse, lambda done: done.versions))


def collect(keep: int, task: str, *, dry_run: bool) -> Unary[results.Collected]:
    """`CollectAdapters`."""
    request = pb.CollectAdaptersRequest(keep=version_number("keep", keep), task=task, dry_run=dry_run)
    return Unary(SERVICE + "CollectAdapters", request, parser(pb.CollectAdaptersResponse, convert.collected))


def diff(before: str | TaskRef, after: str | TaskRef) -> Unary[str]:
    """`DiffAdapters`: the differences as JSON."""
    request = pb.DiffAdaptersRequest(before=wire_task_ref(task_ref(before)), after=wire_task_ref(task_ref(after)))
    return Unary(SERVICE + "DiffAdapters", request, parser(pb.DiffAdaptersResponse, lambda found: found.json))


def events(task: str, alias: str, page_token: str) -> Unary[tuple[list[results.AdapterEvent], str]]:
    """One page of `ListEvents`."""
    request = pb.ListEventsRequest(task=task, alias=alias, page_token=page_token)
    return Unary(SERVICE + "ListEvents", request, parser(pb.ListEventsResponse, convert.event_page))


def upload(archive: Archive) -> Unary[int]:
    """`GetUpload`: how many bytes of an archive the server has."""
    request = pb.GetUploadRequest(size_bytes=archive.size_bytes, sha256=archive.sha256)
    return Unary(SERVICE + "GetUpload", request, parser(pb.Upload, lambda found: found.received_bytes))


def watch_request(tasks: Collection[str], after: int | None) -> pb.WatchAdaptersRequest:
    """What `WatchAdapters` is asked."""
    return pb.WatchAdaptersRequest(tasks=[tasks] if isinstance(tasks, str) else tasks, after_sequence=after)


def export_request(ref: str | TaskRef) -> pb.ExportAdapterRequest:
    """What `ExportAdapter` is asked."""
    return pb.ExportAdapterRequest(adapter=wire_task_ref(task_ref(ref)))


def _milliseconds(seconds: float) -> int:
    if not 0 <= seconds <= MAX_WAIT_S:
        fix = f"wait for 0 to {MAX_WAIT_S:g} s; `watch_adapters` waits for ever"
        raise InvalidInputError("not a time to wait", field="wait", value=seconds, fix=fix)
    return round(seconds * 1e3)
