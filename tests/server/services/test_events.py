"""The journal over the wire: who did what, from where, with which verdict; and as it is written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from houses import LIVE, ask, opened, stock
from lensmount.v1 import adapters_pb2
from lensmount.v1.adapters_pb2_grpc import AdapterServiceStub
from lensmount_server.firsts import FirstAnswer
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Entry
from lensmount_server.services.adapters import AdapterService
from registering import Ref, announced, asking, chunks, events, packed, promote, register, roll_back, upload
from serving import PATIENCE_S, Kit, Served, refused, serving

Event = adapters_pb2.AdapterEvent
Watch = adapters_pb2.WatchAdaptersRequest
Update = adapters_pb2.UpdateAdapterRequest


class Watching:
    """A watcher whose server has begun to tell it."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Watch, Event]) -> None:
        self._call = call

    async def next(self, count: int = 1) -> list[Event]:
        """The next so many events."""
        async with asyncio.timeout(PATIENCE_S):
            found = [await self._call.read() for _ in range(count)]
        events = [event for event in found if isinstance(event, Event)]
        assert len(events) == count
        return events

    async def end(self) -> grpc.StatusCode:
        """How it ends, when nothing more is told."""
        assert await asyncio.wait_for(self._call.read(), PATIENCE_S) is grpc.aio.EOF
        return await self._call.code()


async def watching(server: Served, **options: Any) -> Watching:
    call = server.adapters.WatchAdapters(Watch(**options))
    await call.initial_metadata()
    return Watching(call)


def brief(found: list[Event]) -> list[tuple[str, str, int]]:
    """Kind, task or alias, and version of each."""
    return [
        (
            Event.Kind.Name(each.kind).removeprefix("KIND_").lower(),
            each.alias or each.adapter.task,
            each.adapter.version,
        )
        for each in found
    ]


async def live_through(server: Served, kit: Kit) -> list[tuple[str, str, int]]:
    """One of each kind of event, and what the journal is to say of them."""
    await register(server, kit.defect[0], "live", tags={"site": "hall-3"})
    await register(server, kit.defect[1], "live")
    await register(server, kit.defect[1])
    await roll_back(server)
    second = Ref(task="defect", version=2)
    await server.adapters.UpdateAdapter(Update(adapter=second, pinned=True, pin_reason="audit"))
    await server.adapters.UpdateAdapter(Update(adapter=second, pinned=False, set_tags={"a": "b"}, remove_tags=["c"]))
    await server.adapters.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(task="defect", version=2))
    await register(server, kit.surface)
    await server.adapters.DeleteAlias(adapters_pb2.DeleteAliasRequest(task="defect", alias="live"))
    await register(server, kit.defect[2])
    await server.adapters.CollectAdapters(adapters_pb2.CollectAdaptersRequest(keep=1))
    return [
        ("registered", "defect", 1),
        ("alias_set", "live", 1),
        ("registered", "defect", 2),
        ("alias_set", "live", 2),
        ("registered_again", "defect", 2),
        ("rolled_back", "live", 1),
        ("pinned", "defect", 2),
        ("unpinned", "defect", 2),
        ("tagged", "defect", 2),
        ("deleted", "defect", 2),
        ("registered", "surface", 1),
        ("alias_deleted", "live", 0),
        ("registered", "defect", 3),
        ("collected", "defect", 1),
    ]


async def test_everything_is_told_once_in_order_to_those_who_watch_and_those_who_ask(server: Served, kit: Kit) -> None:
    everything, surface = await watching(server), await watching(server, tasks=["surface", "weather"])
    expected = await live_through(server, kit)
    seen = await everything.next(len(expected))
    assert brief(seen) == expected
    assert seen == await events(server)
    numbers = [event.sequence for event in seen]
    assert numbers == sorted(set(numbers))
    assert brief(await surface.next()) == [("registered", "surface", 1)]
    assert seen[3].previous_version == 1
    assert seen[5].previous_version == 2
    assert (seen[6].detail, seen[8].detail, seen[11].previous_version) == ("audit", "a=b -c", 1)
    assert brief(await events(server, alias="live")) == [each for each in expected if each[1] == "live"]
    assert brief(await events(server, task="surface")) == [("registered", "surface", 1)]
    for place, after in enumerate(numbers):
        late = await watching(server, after_sequence=after)
        assert await late.next(len(seen) - place - 1) == seen[place + 1 :]
    assert await (await watching(server, after_sequence=0)).next(len(seen)) == seen
    assert brief(await (await watching(server, after_sequence=0, tasks=["surface"])).next()) == [
        ("registered", "surface", 1)
    ]


async def test_pages_of_the_journal_hold_everything_once(server: Served, kit: Kit) -> None:
    await live_through(server, kit)
    for size in (1, 3, 14, 15):
        found: list[Event] = []
        token = ""
        while True:
            request = adapters_pb2.ListEventsRequest(page_size=size, page_token=token)
            page = await server.adapters.ListEvents(request)
            found += page.events
            token = page.next_page_token
            if not token:
                break
            assert len(page.events) == size
        assert list(reversed(found)) == await events(server)


async def test_a_replay_goes_over_into_what_happens_without_gap_or_repetition(server: Served, kit: Kit) -> None:
    """Many watchers begin somewhere while aliases are being moved."""
    for version in kit.defect:
        await register(server, version)
    done = asyncio.Event()
    begun: list[tuple[int, Watching]] = []

    async def begin() -> None:
        while not done.is_set() and len(begun) < 10:
            after = (await events(server))[-1].sequence
            begun.append((after, await watching(server, after_sequence=after)))

    beginning = asyncio.create_task(begin())
    for turn in range(60):
        await promote(server, turn % 3 + 1)
    done.set()
    await beginning
    everything = await (await watching(server, after_sequence=0)).next(63)
    assert len(begun) > 2
    for after, watcher in begun:
        expected = [event for event in everything if event.sequence > after]
        assert await watcher.next(len(expected)) == expected


async def test_who_asked_from_where_and_why_it_was_refused(server: Served, kit: Kit) -> None:
    data = packed(kit.defect[0].folder)
    damaged = announced(data, sha256="0" * 64)
    await refused(server.adapters.RegisterAdapter(upload([damaged, *chunks(data)]), metadata=actor("mia")))
    await refused(server.adapters.RegisterAdapter(upload([announced(data[:5000]), *chunks(data[:5000])])))
    await server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)]), metadata=actor("x" * 300))
    await promote(server, 1)
    hash_, archive, registered, promoted = await events(server)
    assert brief([hash_, archive]) == [("refused", "", 0)] * 2
    assert "the hash does not fit" in hash_.detail
    assert "header.sha256" in hash_.detail
    assert "package" in archive.detail
    assert [event.actor for event in (hash_, archive, registered, promoted)] == ["mia", "", "x" * 200, ""]
    assert all(event.origin.startswith("ipv4:127.0.0.1:") for event in (hash_, archive, registered, promoted))
    shown = await server.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=Ref(task="defect")))
    assert (shown.registered_by, shown.origin) == (registered.actor, registered.origin)


def actor(name: str) -> tuple[tuple[str, str], ...]:
    return (("lensmount-actor", name),)


async def test_a_refused_package_is_noted_under_the_task_that_it_says(server: Served, kit: Kit, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    for path in kit.surface.folder.iterdir():
        content = path.read_bytes()
        foreign = content.replace(b"test_vit", b"test_vat") if path.name == "task.json" else content
        (folder / path.name).write_bytes(foreign)
    data = packed(folder)
    await refused(server.adapters.RegisterAdapter(upload([announced(data), *chunks(data)])))
    (event,) = await events(server, task="surface")
    assert brief([event]) == [("refused", "surface", 0)]
    assert "test_vat" in event.detail


async def test_a_first_answer_is_told_after_the_change_that_it_answers(server: Served, kit: Kit) -> None:
    for version in kit.defect:
        await register(server, version, "live")
    async with asking(server, Ref(task="defect")) as stream:
        await stream.ask()  # the first answer of what was set before anybody watched
        watcher, other = await watching(server), await watching(server, tasks=["surface"])
        expected = []
        for turn in range(20):
            number = turn % 3 + 1
            promoting = asyncio.create_task(promote(server, number, first_answer_timeout_ms=60_000))
            while not promoting.done():
                await stream.ask()
            expected += [("alias_set", "live", number), ("first_answer", "live", number)]
        found = await watcher.next(len(expected))
    assert brief(found) == expected
    assert {event.sequence for event in found[1::2]} == {0}
    assert all(event.time_ns > 0 for event in found)
    await register(server, kit.surface)
    assert brief(await other.next()) == [("registered", "surface", 1)]


async def test_watchers_end_with_the_server(kit: Kit, tmp_path: Path) -> None:
    async with AsyncExitStack() as later:
        async with serving(kit, tmp_path / "data") as server:
            channel = await later.enter_async_context(grpc.aio.insecure_channel(server.address))
            watcher = await watching(replace(server, adapters=AdapterServiceStub(channel)))
        assert await watcher.end() is grpc.StatusCode.OK


class Opening:
    """A call's context for which something happens while its client is told that the call has begun."""

    def __init__(self, meanwhile: Any) -> None:
        self._meanwhile = meanwhile

    async def send_initial_metadata(self, _: object) -> None:
        await self._meanwhile()


async def test_nothing_is_missed_from_the_moment_that_a_watch_has_begun(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts()) as house:

        async def meanwhile() -> None:
            await house.catalog.promote("defect", "live", 2)
            await house.catalog.follower.catch_up()

        call: AsyncIterator[Event] = AdapterService(house.catalog).WatchAdapters(Watch(), Opening(meanwhile))  # type: ignore[arg-type]
        found = await asyncio.wait_for(anext(call), 10)
        assert brief([found]) == [("alias_set", "live", 2)]
        await call.aclose()  # type: ignore[attr-defined]


async def test_a_first_answer_waits_for_the_change_that_it_answers(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts()) as house:
        registry, readable = house.catalog.registry, threading.Event()
        read = registry.since

        def since(*what: Any) -> list[Entry]:
            assert readable.wait(PATIENCE_S)
            return read(*what)

        monkeypatch.setattr(registry, "since", since)
        async with house.catalog.follower.watching() as news:
            first = asyncio.ensure_future(anext(news))
            await house.catalog.promote("defect", "live", 2)
            await ask(house.catalog, LIVE)
            await asyncio.sleep(0)
            readable.set()
            found = [await asyncio.wait_for(first, PATIENCE_S), await asyncio.wait_for(anext(news), PATIENCE_S)]
        assert [type(each) for each in found] == [Entry, FirstAnswer]
        assert found[0].seq == found[1].seq
