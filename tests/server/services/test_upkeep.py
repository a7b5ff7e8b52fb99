"""Tags and pins, lists, collection, comparison and export of registered versions, over the wire."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from pathlib import Path

import pytest

from lensmount.errors import IncompatibleError
from lensmount.v1 import adapters_pb2
from registering import Ref, announced, asking, chunks, events, packed, promote, register, upload
from serving import PATIENCE_S, Kit, Served, kept, refused, stored

Update = adapters_pb2.UpdateAdapterRequest
FIRST, SECOND, THIRD = (Ref(task="defect", version=number) for number in (1, 2, 3))


async def show(server: Served, ref: Ref) -> adapters_pb2.Adapter:
    return await server.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=ref))


async def test_tags_and_pins_are_noted_together_or_apart(live: Served) -> None:
    change = live.adapters.UpdateAdapter
    defect = Ref(task="defect")
    tagged = await change(Update(adapter=defect, set_tags={"site": "Hälle 3", "empty": ""}))
    assert dict(tagged.tags) == {"site": "Hälle 3", "empty": ""}
    assert not tagged.pinned
    both = await change(
        Update(adapter=defect, set_tags={"site": "hall-4"}, remove_tags=["empty", "never"], pinned=True, pin_reason="x")
    )
    assert (dict(both.tags), both.pinned, both.pin_reason) == ({"site": "hall-4"}, True, "x")
    again = await change(Update(adapter=defect, pinned=True))
    assert (again.pinned, again.pin_reason) == (True, "")
    free = await change(Update(adapter=FIRST, pinned=False))
    assert (dict(free.tags), free.pinned) == ({"site": "hall-4"}, False)
    before = await events(live)
    assert await change(Update(adapter=defect)) == free  # nothing asked, nothing changed
    assert await events(live) == before
    full = {f"tag-{number}": "x" * 200 for number in range(64)}
    assert len((await change(Update(adapter=defect, set_tags=full, remove_tags=["site"]))).tags) == 64
    assert await show(live, defect) == await show(live, FIRST)


async def test_lists_hold_what_was_asked_for(server: Served, kit: Kit) -> None:
    await register(server, kit.defect[0], "live", tags={"site": "Halle-3", "line": "a"})
    await register(server, kit.defect[1], "canary", tags={"site": "hall-4"})
    await register(server, kit.surface, "live", tags={"line": "a"})
    await register(server, kit.grade)
    await server.adapters.UpdateAdapter(Update(adapter=SECOND, pinned=True))
    expected: list[tuple[dict[str, object], list[str]]] = [
        ({}, ["grade:1", "surface:1", "defect:2", "defect:1"]),
        ({"alias": "live"}, ["surface:1", "defect:1"]),
        ({"alias": "live", "task": "defect"}, ["defect:1"]),
        ({"alias": "canary"}, ["defect:2"]),
        ({"alias": "nothing"}, []),
        ({"pinned_only": True}, ["defect:2"]),
        ({"tags": {"line": ""}}, ["surface:1", "defect:1"]),
        ({"tags": {"line": "a", "site": ""}}, ["defect:1"]),
        ({"tags": {"line": "b"}}, []),
        ({"query": "HALLE"}, ["defect:1"]),
        ({"query": "hall"}, ["defect:2", "defect:1"]),
        ({"query": "SURF"}, ["surface:1"]),
        ({"query": "%"}, []),
        ({"query": "hall", "pinned_only": True, "alias": "canary", "tags": {"site": "hall-4"}}, ["defect:2"]),
    ]
    for filters, found in expected:
        assert await listed(server, 1000, filters) == found
        assert await listed(server, 1, filters) == found


async def listed(server: Served, size: int, filters: dict[str, object]) -> list[str]:
    """All pages of a list; none but the last is without a token."""
    found: list[str] = []
    token = ""
    while True:
        request = adapters_pb2.ListAdaptersRequest(page_size=size, page_token=token, **filters)  # type: ignore[arg-type]
        page = await server.adapters.ListAdapters(request)
        found += [f"{adapter.version.task}:{adapter.version.version}" for adapter in page.adapters]
        token = page.next_page_token
        if not token:
            return found
        assert len(page.adapters) == size


async def collect(server: Served, keep: int, **more: object) -> list[tuple[str, int]]:
    request = adapters_pb2.CollectAdaptersRequest(keep=keep, **more)  # type: ignore[arg-type]
    done = await server.adapters.CollectAdapters(request)
    assert bool(done.size_bytes) == bool(done.removed)
    return [(each.task, each.version) for each in done.removed]


async def test_what_nothing_needs_is_collected(server: Served, kit: Kit) -> None:
    for version in (*kit.defect, kit.surface):
        await register(server, version)
    async with asking(server, SECOND) as stream:
        assert await stream.version() == 2
        assert await collect(server, 1, dry_run=True) == [("defect", 1)]
        assert len(kept(server.data_dir).rows) == 4
        assert await collect(server, 2) == [("defect", 1)]
        assert await collect(server, 1) == []  # what an open stream asks for by number stays
        assert await stream.version() == 2
    await server.adapters.UpdateAdapter(Update(adapter=SECOND, pinned=True))
    assert await collect(server, 1) == []
    assert kept(server.data_dir).whole
    await promote(server, 3)
    assert (await events(server))[4].kind == adapters_pb2.AdapterEvent.KIND_COLLECTED


async def test_what_no_stream_asks_for_any_more_goes(server: Served, kit: Kit) -> None:
    for version in kit.defect:
        await register(server, version)
    async with asking(server, FIRST), asyncio.timeout(PATIENCE_S):
        assert await collect(server, 1, task="defect") == [("defect", 2)]
    await server.adapters.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(task="defect", version=1))
    assert await collect(server, 1, task="weather") == []
    assert len(kept(server.data_dir).rows) == 1


async def exported(server: Served, ref: Ref) -> tuple[adapters_pb2.ExportAdapterHeader, bytes]:
    call = server.adapters.ExportAdapter(adapters_pb2.ExportAdapterRequest(adapter=ref))
    first, *rest = [message async for message in call]
    assert all(0 < len(message.chunk) <= 1 << 20 for message in rest)
    return first.header, b"".join(message.chunk for message in rest)


async def test_what_is_exported_is_what_was_registered(live: Served, kit: Kit) -> None:
    for version in (kit.defect[0], kit.surface, kit.grade):
        task = version.adapter.manifest.task
        header, data = await exported(live, Ref(task=task))
        assert data == packed(version.folder)
        assert (header.size_bytes, header.sha256) == (len(data), announced(data).header.sha256)
        assert (header.adapter.task, header.adapter.content_hash) == (task, version.adapter.content_hash)
        again = await live.adapters.RegisterAdapter(upload([announced(data), *chunks(data)]))
        assert again.already_registered
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("task.json") == (kit.grade.folder / "task.json").read_bytes()


@pytest.mark.parametrize("change", ["a byte", "a file more", "a file less"])
async def test_a_package_that_was_changed_on_disk_is_not_exported(live: Served, change: str) -> None:
    folder = stored(live.data_dir, (await show(live, FIRST)).version.content_hash)
    spoil(folder, change)
    call = live.adapters.ExportAdapter(adapters_pb2.ExportAdapterRequest(adapter=Ref(task="defect")))
    error = await refused(call)
    assert isinstance(error, IncompatibleError)
    assert (error.field, error.value) == ("adapter", "defect:1")
    assert "register the package again" in error.fix


def spoil(folder: Path, change: str) -> None:
    weights = folder / "adapter_model.safetensors"
    folder.chmod(0o755)
    weights.chmod(0o644)
    if change == "a byte":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif change == "a file more":
        (folder / "README.md").unlink(missing_ok=True)
        (folder / "README.md").write_text("another card")
    else:
        weights.unlink()


async def test_a_comparison_names_both_and_what_is_different(live: Served, kit: Kit) -> None:
    await register(live, kit.defect[1])
    request = adapters_pb2.DiffAdaptersRequest(before=Ref(task="defect"), after=SECOND)
    found = await live.adapters.DiffAdapters(request)
    assert (found.before.version, found.after.version) == (1, 2)
    different = json.loads(found.json)
    assert different["tensors"]
    request.after.version = 1
    same = json.loads((await live.adapters.DiffAdapters(request)).json)
    assert not any(each for key, each in same.items() if key == "tensors" and isinstance(each, list))
    assert same != different


async def test_a_check_alone_keeps_nothing(server: Served, kit: Kit) -> None:
    checked = await register(server, kit.defect[0], validate_only=True, tags={"a": "b"})
    assert (checked.adapter.version.task, checked.adapter.version.version) == ("defect", 0)
    assert checked.adapter.version.content_hash == kit.defect[0].adapter.content_hash
    assert list(checked.adapter.labels) == kit.defect[0].adapter.manifest.labels
    assert [check.name for check in checked.checks][-2:] == ["golden", "policy"]
    assert not checked.already_registered
    assert not checked.HasField("alias")
    assert await events(server) == []
    assert not kept(server.data_dir).blobs
    assert not kept(server.data_dir).staging
    assert not any((server.data_dir / "uploads").iterdir())
    registered = await register(server, kit.defect[0])
    assert registered.adapter.version.version == 1
    known = await register(server, kit.defect[0], validate_only=True)
    assert known.already_registered
    assert known.adapter.version == registered.adapter.version
    assert len(await events(server)) == 1
