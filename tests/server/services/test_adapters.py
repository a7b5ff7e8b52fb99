from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lensmount.archive import Upload, open_archive, upload_messages
from lensmount.errors import (
    ConflictError,
    IncompatibleError,
    InvalidInputError,
    LensmountError,
    NotFoundError,
    TooLargeError,
)
from lensmount.v1 import adapters_pb2, common_pb2
from lensmount_adapters.admission import STEPS
from lensmount_server.services.upload import MAX_ARCHIVE_BYTES
from registering import announced, chunks, packed, register, upload
from serving import Kit, Served, kept, refused

Request = adapters_pb2.RegisterAdapterRequest


async def test_a_registered_version_says_what_its_package_says(server: Served, kit: Kit) -> None:
    answer = await register(server, kit.defect[0], "live")
    manifest = kit.defect[0].adapter.manifest
    adapter = answer.adapter
    assert (adapter.version.task, adapter.version.version) == ("defect", 1)
    assert adapter.version.content_hash == kit.defect[0].adapter.content_hash
    assert list(adapter.aliases) == ["live"]
    assert list(adapter.labels) == manifest.labels
    assert adapter.backbone_fingerprint == kit.backbone.fingerprint
    assert (adapter.fork, adapter.strategy, adapter.multi_label) == (manifest.fork, "test", False)
    assert adapter.size_bytes > 0
    names = ["upload", *STEPS, "warm-up", "golden", "policy"]
    assert [check.name for check in answer.checks] == names
    assert all(check.detail for check in answer.checks)
    assert not answer.already_registered
    assert kept(server.data_dir).whole
    assert await server.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter={"task": "defect"})) == adapter  # type: ignore[arg-type]


async def test_the_same_content_again(server: Served, kit: Kit) -> None:
    first = await register(server, kit.defect[0])
    again = await register(server, kit.defect[0], "canary")
    assert again.already_registered
    assert again.adapter.version == first.adapter.version
    assert list(again.adapter.aliases) == ["canary"]


async def test_a_large_package_in_chunks_of_any_size(server: Served, kit: Kit) -> None:
    data = packed(kit.defect[0].folder)
    for size in (len(data), 1000):
        answer = await server.adapters.RegisterAdapter(upload([announced(data), *chunks(data, size)]))
        assert answer.adapter.version.version == 1


async def test_the_messages_of_the_client(server: Served, kit: Kit) -> None:
    with open_archive(kit.surface.folder) as archive:
        answer = await server.adapters.RegisterAdapter(upload(upload_messages(archive, Upload("live"))))
    assert answer.adapter.version.task == "surface"


HOSTILE: dict[str, tuple[type[LensmountError], str]] = {
    "empty": (InvalidInputError, "header"),
    "no header": (InvalidInputError, "header"),
    "empty message": (InvalidInputError, "header"),
    "size 0": (InvalidInputError, "header.size_bytes"),
    "too large": (TooLargeError, "header.size_bytes"),
    "hash not hexadecimal": (InvalidInputError, "header.sha256"),
    "hash missing": (InvalidInputError, "header.sha256"),
    "bad alias": (InvalidInputError, "header.set_alias"),
    "no chunk": (InvalidInputError, "chunk"),
    "less than announced": (InvalidInputError, "chunk"),
    "more than announced": (InvalidInputError, "chunk"),
    "a chunk after the end": (InvalidInputError, "chunk"),
    "a second header": (InvalidInputError, "chunk"),
    "an empty message within": (InvalidInputError, "chunk"),
    "another hash": (InvalidInputError, "header.sha256"),
    "no archive": (InvalidInputError, "package"),
}


def hostile(name: str, data: bytes) -> list[Request]:
    header, body = announced(data), chunks(data)
    return {
        "empty": [],
        "no header": body,
        "empty message": [Request(), header, *body],
        "size 0": [announced(data, size_bytes=0), *body],
        "too large": [announced(data, size_bytes=MAX_ARCHIVE_BYTES + 1), *body],
        "hash not hexadecimal": [announced(data, sha256="x" * 64), *body],
        "hash missing": [announced(data, sha256=""), *body],
        "bad alias": [announced(data, set_alias="../live"), *body],
        "no chunk": [header],
        "less than announced": [header, *body[:-1]],
        "more than announced": [announced(data, size_bytes=len(data) - 1), *body],
        "a chunk after the end": [header, *body, Request(chunk=b"x")],
        "a second header": [header, body[0], header, *body[1:]],
        "an empty message within": [header, body[0], Request(), *body[1:]],
        "another hash": [announced(data, sha256="0" * 64), *body],
        "no archive": [announced(data[::-1]), *chunks(data[::-1])],
    }[name]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_upload_is_one_status_and_leaves_nothing(server: Served, kit: Kit, name: str) -> None:
    kind, field = HOSTILE[name]
    error = await refused(server.adapters.RegisterAdapter(upload(hostile(name, packed(kit.defect[0].folder)))))
    assert type(error) is kind
    assert error.field == field
    assert error.fix
    assert kept(server.data_dir).whole
    assert not kept(server.data_dir).rows
    assert (await register(server, kit.defect[0])).adapter.version.version == 1


@pytest.mark.parametrize("part", range(1, 20))
async def test_a_truncated_package_is_one_status_and_leaves_nothing(server: Served, kit: Kit, part: int) -> None:
    data = packed(kit.defect[0].folder)
    data = data[: len(data) * part // 20]
    error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
    assert isinstance(error, InvalidInputError)
    assert (error.field, bool(error.value), bool(error.fix)) == ("package", True, True)
    assert kept(server.data_dir).whole
    assert not kept(server.data_dir).rows


async def test_a_package_for_another_backbone_is_refused(server: Served, kit: Kit, tmp_path: Path) -> None:
    for field, old, new in (
        ("backbone.name", b"test_vit", b"test_vat"),
        ("backbone.fingerprint", kit.backbone.fingerprint.encode(), b"0" * 64),
    ):
        folder = tmp_path / field
        folder.mkdir()
        for path in kit.surface.folder.iterdir():
            content = path.read_bytes()
            (folder / path.name).write_bytes(content.replace(old, new) if path.name == "task.json" else content)
        data = packed(folder)
        error = await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
        assert isinstance(error, IncompatibleError)
        assert (error.field, error.value) == (f"task.json: {field}", new.decode())
        assert error.fix
        assert not kept(server.data_dir).blobs


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(server: Served, kit: Kit) -> None:
    data = packed(kit.defect[0].folder)

    async def half() -> AsyncIterator[Request]:
        yield announced(data)
        for chunk in chunks(data)[:4]:
            yield chunk
        call.cancel()

    call = server.adapters.RegisterAdapter(half())
    with pytest.raises(BaseException):  # noqa: B017, PT011 - gRPC raises asyncio's CancelledError here
        await call
    answer = await register(server, kit.defect[0])
    assert answer.adapter.version.version == 1
    assert kept(server.data_dir).whole


async def listed(server: Served, task: str = "", size: int = 0) -> list[adapters_pb2.Adapter]:
    """All pages; the last one only may be without a token."""
    found: list[adapters_pb2.Adapter] = []
    token = ""
    while True:
        request = adapters_pb2.ListAdaptersRequest(task=task, page_size=size, page_token=token)
        page = await server.adapters.ListAdapters(request)
        found += page.adapters
        token = page.next_page_token
        if not token:
            return found
        assert len(page.adapters) == size


@pytest.mark.parametrize("size", [1, 2, 4, 5, 1000])
async def test_pages_hold_everything_once_newest_first(server: Served, kit: Kit, size: int) -> None:
    assert await listed(server, size=size) == []
    for version in kit.versions[:4]:
        await register(server, version)
    found = await listed(server, size=size)
    assert [adapter.version.content_hash for adapter in found] == [
        version.adapter.content_hash for version in reversed(kit.versions[:4])
    ]
    assert [adapter.version.version for adapter in await listed(server, "defect", size)] == [3, 2, 1]
    assert await listed(server, "weather", size) == []


async def test_a_full_last_page_has_no_token(server: Served, kit: Kit) -> None:
    for version in kit.versions[:4]:
        await register(server, version)
    page = await server.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest(page_size=4))
    assert len(page.adapters) == 4
    assert page.next_page_token == ""


HASH = "0" * 64


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (adapters_pb2.ListAdaptersRequest(page_size=1001), "page_size"),
        (adapters_pb2.ListAdaptersRequest(page_size=2**32 - 1), "page_size"),
        (adapters_pb2.ListAdaptersRequest(page_token="1.5"), "page_token"),  # noqa: S106 - no password
        (adapters_pb2.ListAdaptersRequest(page_token="-1-" + HASH), "page_token"),
        (adapters_pb2.ListAdaptersRequest(page_token=f"{2**63}-{HASH}"), "page_token"),
        (adapters_pb2.ListAdaptersRequest(page_token="9" * 19 + f"-{HASH}"), "page_token"),
        (adapters_pb2.ListAdaptersRequest(page_token="1-" + HASH + "\n"), "page_token"),
        (adapters_pb2.ListAdaptersRequest(page_token="x" * 100_000), "page_token"),
    ],
)
async def test_a_page_that_can_not_be_is_refused(
    server: Served, request_: adapters_pb2.ListAdaptersRequest, field: str
) -> None:
    error = await refused(server.adapters.ListAdapters(request_))
    assert isinstance(error, InvalidInputError)
    assert error.field == field
    assert error.value
    assert error.fix


async def test_aliases_are_set_and_compared(server: Served, kit: Kit) -> None:
    for version in kit.defect:
        await register(server, version)

    async def set_alias(version: int, alias: str = "", expected: int | None = None) -> tuple[int, int, str]:
        request = adapters_pb2.SetAliasRequest(task="defect", alias=alias, version=version, expected_version=expected)
        answer = await server.adapters.SetAlias(request)
        assert answer.switch_ms > 0
        return answer.previous_version, answer.version, answer.alias

    assert await set_alias(1) == (0, 1, "live")
    assert await set_alias(2, "live", 1) == (1, 2, "live")
    assert await set_alias(3, "canary", 0) == (0, 3, "canary")
    request = adapters_pb2.SetAliasRequest(task="defect", version=3, expected_version=1)
    error = await refused(server.adapters.SetAlias(request))
    assert isinstance(error, ConflictError)
    assert (error.field, error.value) == ("expected_version", "1")
    assert "version 2" in error.message
    request.expected_version = 0
    assert isinstance(await refused(server.adapters.SetAlias(request)), ConflictError)
    by_alias = {alias: adapter.version.version for adapter in await listed(server) for alias in adapter.aliases}
    assert by_alias == {"live": 2, "canary": 3}


@pytest.mark.parametrize(
    ("request_", "kind", "field", "value"),
    [
        (adapters_pb2.SetAliasRequest(task="defect", version=9), NotFoundError, "adapter", "defect:9"),
        (adapters_pb2.SetAliasRequest(task="defect"), NotFoundError, "adapter", "defect:0"),
        (adapters_pb2.SetAliasRequest(task="weather", version=1), NotFoundError, "adapter", "weather:1"),
        (adapters_pb2.SetAliasRequest(version=1), NotFoundError, "adapter", ":1"),
        (adapters_pb2.SetAliasRequest(task="a\0b", version=1), NotFoundError, "adapter", "a\0b:1"),
        (adapters_pb2.SetAliasRequest(task="defect", version=1, alias="-x"), InvalidInputError, "alias", "-x"),
        (adapters_pb2.SetAliasRequest(task="defect", version=1, alias="a b"), InvalidInputError, "alias", "a b"),
        (adapters_pb2.SetAliasRequest(task="defect", version=1, alias="lïve"), InvalidInputError, "alias", "lïve"),
        (adapters_pb2.SetAliasRequest(task="defect", version=1, alias="live\n"), InvalidInputError, "alias", "live\n"),
    ],
)
async def test_an_alias_that_can_not_be_is_refused(
    live: Served, request_: adapters_pb2.SetAliasRequest, kind: type[LensmountError], field: str, value: str
) -> None:
    error = await refused(live.adapters.SetAlias(request_))
    assert type(error) is kind
    assert (error.field, error.value) == (field, value)
    assert error.fix


@pytest.mark.parametrize(
    ("ref", "kind"),
    [
        (common_pb2.TaskRef(), InvalidInputError),
        (common_pb2.TaskRef(task="weather"), NotFoundError),
        (common_pb2.TaskRef(task="defect", alias="canary"), NotFoundError),
        (common_pb2.TaskRef(task="defect", version=2**32 - 1), NotFoundError),
    ],
)
async def test_a_version_that_is_not_there(live: Served, ref: common_pb2.TaskRef, kind: type[LensmountError]) -> None:
    error = await refused(live.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=ref)))
    assert type(error) is kind
    assert error.field
    assert error.fix
