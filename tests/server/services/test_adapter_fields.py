"""What the calls about adapter versions refuse: each names the field, the value and the fix, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from lensmount.errors import (
    ConflictError,
    IncompatibleError,
    InvalidInputError,
    LensmountError,
    NotFoundError,
    TooLargeError,
)
from lensmount.v1 import adapters_pb2
from registering import Ref, announced, chunks, events, packed, register, upload
from serving import Kit, Served, refused, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFECT, LONG = Ref(task="defect"), "x" * 65
Rollback = adapters_pb2.RollbackRequest
SetAlias = adapters_pb2.SetAliasRequest
Update = adapters_pb2.UpdateAdapterRequest
Listing = adapters_pb2.ListAdaptersRequest
Journal = adapters_pb2.ListEventsRequest
Collect = adapters_pb2.CollectAdaptersRequest
Unalias = adapters_pb2.DeleteAliasRequest
Delete = adapters_pb2.DeleteAdapterRequest
DeleteTask = adapters_pb2.DeleteTaskRequest
Diff = adapters_pb2.DiffAdaptersRequest
Export = adapters_pb2.ExportAdapterRequest
GetUpload = adapters_pb2.GetUploadRequest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stocked(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server whose `defect` has two versions, the first live and tagged, the second pinned."""
    async with serving(kit, tmp_path_factory.mktemp("fields") / "data") as server:
        await register(server, kit.defect[0], "live", tags={"site": "hall-3"})
        await register(server, kit.defect[1])
        pin = Update(adapter=Ref(task="defect", version=2), pinned=True, pin_reason="audit")
        await server.adapters.UpdateAdapter(pin)
        yield server


def call(server: Served, request: Message) -> Any:
    """The call that takes such a request."""
    return getattr(server.adapters, type(request).__name__.removesuffix("Request"))(request)


REFUSALS: dict[str, tuple[Message, type[LensmountError], str, str]] = {
    "etag of nothing": (SetAlias(task="defect", version=1, etag="0"), ConflictError, "etag", "0"),
    "etag of no number": (SetAlias(task="defect", version=1, etag="-1"), ConflictError, "etag", "-1"),
    "etag of a new alias": (SetAlias(task="defect", version=1, alias="new", etag="7"), ConflictError, "etag", "7"),
    "too patient": (
        SetAlias(task="defect", version=1, first_answer_timeout_ms=60_001),
        InvalidInputError,
        "first_answer_timeout_ms",
        "60001",
    ),
    "too patient back": (
        Rollback(task="defect", first_answer_timeout_ms=2**32 - 1),
        InvalidInputError,
        "first_answer_timeout_ms",
        str(2**32 - 1),
    ),
    "back without a past": (Rollback(task="defect"), NotFoundError, "alias", "defect@live"),
    "back of no alias": (Rollback(task="defect", alias="canary"), NotFoundError, "adapter", "defect@canary"),
    "back of no task": (Rollback(task="weather"), NotFoundError, "adapter", "weather@live"),
    "back of nothing": (Rollback(), NotFoundError, "adapter", "@live"),
    "back to no version": (
        Rollback(task="defect", version=2**32 - 1),
        NotFoundError,
        "version",
        f"defect:{2**32 - 1}",
    ),
    "back to another version": (Rollback(task="defect", version=2), NotFoundError, "version", "defect:2"),
    "no task": (Update(adapter=Ref()), InvalidInputError, "tasks", ""),
    "no version": (Update(adapter=Ref(task="defect", version=9), pinned=True), NotFoundError, "adapter", "defect:9"),
    "tag without a name": (Update(adapter=DEFECT, set_tags={"": "x"}), InvalidInputError, "set_tags", ""),
    "tag of a long name": (Update(adapter=DEFECT, set_tags={LONG: "x"}), InvalidInputError, "set_tags", LONG),
    "tag with =": (Update(adapter=DEFECT, set_tags={"a=b": "x"}), InvalidInputError, "set_tags", "a=b"),
    "tag of two lines": (Update(adapter=DEFECT, set_tags={"a": "x\ny"}), InvalidInputError, "set_tags.a", "x\ny"),
    "tag with NUL": (Update(adapter=DEFECT, set_tags={"a": "\0"}), InvalidInputError, "set_tags.a", "\0"),
    "long tag": (Update(adapter=DEFECT, set_tags={"a": "x" * 201}), InvalidInputError, "set_tags.a", "x" * 201),
    "many tags": (
        Update(adapter=DEFECT, set_tags={f"tag-{number}": "" for number in range(65)}),
        TooLargeError,
        "set_tags",
        "65",
    ),
    "more tags than a version has": (
        Update(adapter=DEFECT, set_tags={f"tag-{number}": "" for number in range(64)}),
        TooLargeError,
        "set_tags",
        "65",
    ),
    "removed tag of no name": (Update(adapter=DEFECT, remove_tags=["a b"]), InvalidInputError, "remove_tags", "a b"),
    "many removed tags": (Update(adapter=DEFECT, remove_tags=["a"] * 65), TooLargeError, "remove_tags", "65"),
    "long reason": (
        Update(adapter=DEFECT, pinned=True, pin_reason="x" * 201),
        InvalidInputError,
        "pin_reason",
        "x" * 201,
    ),
    "reason of two lines": (
        Update(adapter=DEFECT, pinned=True, pin_reason="\r"),
        InvalidInputError,
        "pin_reason",
        "\r",
    ),
    "reason without a pin": (Update(adapter=DEFECT, pin_reason="audit"), InvalidInputError, "pin_reason", "audit"),
    "many tags to look for": (
        Listing(tags={f"tag-{number}": "" for number in range(65)}),
        TooLargeError,
        "tags",
        "65",
    ),
    "long text to look for": (Listing(query="x" * 201), InvalidInputError, "query", "x" * 201),
    "long page": (Listing(page_size=1001), InvalidInputError, "page_size", "1001"),
    "no page": (Listing(page_token="two"), InvalidInputError, "page_token", "two"),  # noqa: S106 - no password
    "long page of events": (Journal(page_size=2**32 - 1), InvalidInputError, "page_size", str(2**32 - 1)),
    "no page of events": (Journal(page_token="-1"), InvalidInputError, "page_token", "-1"),  # noqa: S106 - no password
    "keep nothing": (Collect(), InvalidInputError, "keep", "0"),
    "keep nothing of a task": (Collect(task="defect", dry_run=True), InvalidInputError, "keep", "0"),
    "delete no alias": (Unalias(task="defect", alias="canary"), NotFoundError, "adapter", "defect@canary"),
    "delete an alias without a name": (Unalias(task="defect"), NotFoundError, "adapter", "defect@"),
    "delete an alias that changed": (Unalias(task="defect", alias="live", etag="0"), ConflictError, "etag", "0"),
    "delete no version": (Delete(task="defect", version=3), NotFoundError, "adapter", "defect:3"),
    "delete version 0": (Delete(task="defect"), NotFoundError, "adapter", "defect:0"),
    "delete what answers": (Delete(task="defect", version=1), IncompatibleError, "version", "defect:1"),
    "delete what is pinned": (Delete(task="defect", version=2), IncompatibleError, "version", "defect:2"),
    "delete a pinned task": (DeleteTask(task="defect"), IncompatibleError, "version", "defect:2"),
    "delete no task": (DeleteTask(task="weather"), NotFoundError, "task", "weather"),
    "delete nothing": (DeleteTask(), NotFoundError, "task", ""),
    "compare nothing": (Diff(before=DEFECT), InvalidInputError, "tasks", ""),
    "compare with no version": (
        Diff(before=DEFECT, after=Ref(task="defect", version=7)),
        NotFoundError,
        "adapter",
        "defect:7",
    ),
    "export nothing": (Export(), InvalidInputError, "tasks", ""),
    "export no task": (Export(adapter=Ref(task="weather")), NotFoundError, "adapter", "weather@live"),
    "upload of nothing": (GetUpload(sha256="0" * 64), InvalidInputError, "size_bytes", ""),
    "upload without end": (
        GetUpload(sha256="0" * 64, size_bytes=2**64 - 1),
        TooLargeError,
        "size_bytes",
        str(2**64 - 1),
    ),
    "upload of no hash": (GetUpload(sha256="../x", size_bytes=1), InvalidInputError, "sha256", "../x"),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_names_field_value_and_fix_and_changes_nothing(stocked: Served, name: str) -> None:
    request, kind, field, value = REFUSALS[name]
    before = await events(stocked)
    error = await refused(call(stocked, request))
    assert (type(error), error.field) == (kind, field)
    assert told_as(error.value, value)
    assert error.fix
    assert await events(stocked) == before


def told_as(told: str, value: str) -> bool:
    """Whether a value is told, or its beginning where it is long."""
    return told == value or (len(told) > 64 and told.endswith("…") and value.startswith(told[:-1]))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("delete what answers", "promote another version first"),
        ("delete what is pinned", "lensmount adapters unpin defect:2"),
        ("delete a pinned task", "lensmount adapters unpin defect:2"),
        ("keep nothing", "10 for example"),
        ("delete an alias that changed", "lensmount adapters show defect@live"),
    ],
)
async def test_a_fix_is_a_thing_to_do(stocked: Served, name: str, fix: str) -> None:
    assert fix in (await refused(call(stocked, REFUSALS[name][0]))).fix


@pytest.mark.parametrize(
    ("header", "field", "value"),
    [
        ({"tags": {"a b": ""}}, "header.tags", "a b"),
        ({"tags": {"a": "\n"}}, "header.tags.a", "\n"),
        ({"tags": {f"tag-{number}": "" for number in range(65)}}, "header.tags", "65"),
        ({"validate_only": True, "set_alias": "live"}, "header.set_alias", "live"),
        ({"set_alias": "a/b"}, "header.set_alias", "a/b"),
        ({"offset": 1}, "header.offset", "1"),
        ({"offset": 2**64 - 1}, "header.offset", str(2**64 - 1)),
    ],
)
async def test_a_header_that_can_not_be(
    stocked: Served, kit: Kit, header: dict[str, Any], field: str, value: str
) -> None:
    error = await refused(call_register(stocked, kit, header))
    assert (error.field, error.value) == (field, value)
    assert error.fix


def call_register(server: Served, kit: Kit, header: dict[str, Any]) -> Any:
    """A call that sends a package under such a header."""
    data = packed(kit.defect[2].folder)
    return server.adapters.RegisterAdapter(upload([announced(data, **header), *chunks(data)]))
