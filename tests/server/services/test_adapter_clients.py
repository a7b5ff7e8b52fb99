"""What both clients do with adapter versions, against a real server; the asynchronous one in blocking dress."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import lensmount
from blocking import Blocking, Loop
from lensmount import Client, ConflictError, InvalidInputError, NotFoundError
from lensmount.results import AdapterEvent, AdapterEventKind
from lensmount_adapters.package import content_hash
from registering import packed
from serving import PATIENCE_S, Kit, Served

Use = Callable[[Callable[[Client], None]], None]
Kinds = AdapterEventKind


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of either kind."""
    loop = Loop() if request.param == "asyncio" else None
    made: list[Any] = []

    def make(server: Served, **options: Any) -> Any:
        options["timeout"] = PATIENCE_S
        kind = lensmount.AsyncClient if loop else Client
        client: Any = kind(server.address, **options)
        made.append(Blocking(loop, client) if loop else client)
        return made[-1]

    yield make
    for client in made:
        client.close()
    if loop:
        loop.close()


Connect = Callable[..., Client]


async def test_every_method(server: Served, kit: Kit, connect: Connect) -> None:
    def use(client: Client) -> None:
        checked = client.register(kit.defect[0].folder, validate_only=True)
        assert (checked.adapter.version, checked.alias_change) == (0, None)
        with pytest.raises(InvalidInputError, match="nothing is kept"):
            client.register(kit.defect[0].folder, validate_only=True, alias="live")
        first = client.register(kit.defect[0].folder, alias="live", tags={"site": "hall-3"})
        assert first.alias_change
        assert (first.alias_change.version, first.alias_change.previous_version) == (1, 0)
        assert (first.adapter.tags, first.adapter.pin_reason) == ({"site": "hall-3"}, None)
        for version in kit.defect[1:]:
            client.register(version.folder)
        second = client.set_alias("defect", 2, etag=first.alias_change.etag)
        with pytest.raises(ConflictError) as stale:
            client.set_alias("defect", 3, etag=first.alias_change.etag)
        assert stale.value.field == "etag"
        client.set_alias("defect", 3, expected_version=2, wait=1)
        back = client.rollback("defect")
        assert (back.version, back.previous_version, back.first_answer_ms) == (2, 3, None)
        assert back.etag != second.etag
        assert client.rollback("defect", version=1, etag=back.etag, wait=0.5).version == 1
        with pytest.raises(NotFoundError, match="no earlier version"):
            client.rollback("defect")
        tagged = client.tag("defect:3", {"line": "a"}, remove=["never"])
        assert tagged.tags == {"line": "a"}
        assert client.pin("defect:3", "audit").pin_reason == "audit"
        assert client.pin("defect:3").pin_reason == ""
        assert numbers(client.adapters(pinned_only=True)) == [3]
        assert numbers(client.adapters("defect", tags={"site": ""})) == [1]
        assert numbers(client.adapters(alias="live")) == [1]
        assert numbers(client.adapters(query="LINE")) == [3]
        with pytest.raises(lensmount.IncompatibleError, match="is pinned"):
            client.delete_adapter("defect", 3)
        assert client.unpin("defect:3").pin_reason is None
        (state,) = client.adapter("defect").alias_states
        assert (state.alias, state.set_time_ns > 0) == ("live", True)
        assert json.loads(client.diff("defect", "defect:2"))["tensors"]
        client.set_alias("defect", 2, "canary")
        client.delete_alias("defect", "canary")
        (gone,) = client.collect(1, dry_run=True).removed
        assert (gone.task, gone.version) == ("defect", 2)
        assert client.collect(1, "weather").removed == ()
        client.delete_adapter("defect", 3)
        assert client.delete_task("defect") == 2
        assert list(client.adapters()) == []
        found = list(client.events("defect"))
        assert [event.kind for event in found[:3]] == [Kinds.DELETED, Kinds.DELETED, Kinds.ALIAS_DELETED]
        assert found[0].detail == "with its task"
        assert {event.alias for event in client.events(alias="canary")} == {"canary"}

    await asyncio.to_thread(use, connect(server))


def numbers(found: Any) -> list[int]:
    return [adapter.version for adapter in found]


async def test_a_watch_of_the_journal(server: Served, kit: Kit, connect: Connect) -> None:
    def use(client: Client) -> None:
        with client.watch_adapters() as watch:
            client.register(kit.defect[0].folder, alias="live")
            client.register(kit.surface.folder)
            seen = list(islice(watch, 3))
        assert kinds(seen) == [Kinds.REGISTERED, Kinds.ALIAS_SET, Kinds.REGISTERED]
        with client.watch_adapters(["surface"], after=0) as watch:
            assert list(islice(watch, 1)) == seen[2:]
        assert list(islice(client.watch_adapters(after=0), 3)) == seen
        with client.watch_adapters("defect", after=seen[0].sequence) as watch:
            assert list(islice(watch, 1)) == seen[1:2]
        assert list(client.events()) == seen[::-1]

    await asyncio.to_thread(use, connect(server))


def kinds(found: list[AdapterEvent]) -> list[AdapterEventKind]:
    return [event.kind for event in found]


async def test_who_calls_is_in_the_journal(server: Served, kit: Kit, connect: Connect, monkeypatch: Any) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "jörg\n")
    clients = [connect(server, actor=actor) for actor in ("mia", "Zoë 😀", "a\tb", "", None, "x" * 20_000)]

    def use() -> None:
        clients[0].register(kit.surface.folder)
        for client in clients:
            client.pin("surface:1")
        found = [event.actor for event in clients[0].events() if event.kind is Kinds.PINNED]
        assert found[::-1] == ["mia", "Zo? ?", "a?b", "", "j?rg?", "x" * 200]
        assert clients[0].adapter("surface:1").registered_by == "mia"

    await asyncio.to_thread(use)


async def test_a_nameless_user_is_nobody(server: Served, kit: Kit, connect: Connect, monkeypatch: Any) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    client = connect(server)
    registered = await asyncio.to_thread(client.register, kit.surface.folder)
    assert registered.adapter.registered_by == ""
    assert registered.adapter.origin.startswith("ipv4:127.0.0.1")


async def test_an_export_is_the_package_that_was_registered(
    live: Served, kit: Kit, connect: Connect, tmp_path: Path
) -> None:
    def use(client: Client) -> None:
        told: list[tuple[int, int]] = []
        done = client.export("defect", tmp_path / "new" / "defect", lambda *sizes: told.append(sizes))
        assert (done.adapter.task, done.adapter.version, done.path) == ("defect", 1, str(tmp_path / "new" / "defect"))
        assert told[-1] == (done.size_bytes, done.size_bytes)
        folder = Path(done.path)
        assert content_hash(folder) == done.adapter.content_hash == kit.defect[0].adapter.content_hash
        assert {path.name for path in folder.iterdir()} == {path.name for path in kit.defect[0].folder.iterdir()}
        client.export("defect:1", tmp_path / "defect.zip")
        assert (tmp_path / "defect.zip").read_bytes() == packed(kit.defect[0].folder)
        assert zipfile.is_zipfile(tmp_path / "defect.zip")
        assert client.register(tmp_path / "defect.zip").already_registered
        assert client.register(folder).already_registered
        for target in (tmp_path / "defect.zip", folder):
            with pytest.raises(lensmount.AlreadyExistsError) as taken:
                client.export("defect", target)
            assert (taken.value.field, taken.value.value, taken.value.fix) == ("path", str(target), "give another name")
        with pytest.raises(NotFoundError):
            client.export("defect:9", tmp_path / "nothing")
        with pytest.raises(lensmount.UnavailableError) as blocked:
            client.export("defect", tmp_path / "defect.zip" / "below")
        assert (blocked.value.field, blocked.value.fix) == ("path", "give another place")
        assert {path.name for path in tmp_path.iterdir()} >= {"new", "defect.zip"}
        assert not list(tmp_path.rglob(".*"))
        assert not (tmp_path / "nothing").exists()

    await asyncio.to_thread(use, connect(live))
