"""Promotions and rollbacks over the wire: what they say, whom they refuse, and when the first frame is answered."""

from __future__ import annotations

import asyncio

import pytest

from lensmount.errors import ConflictError, NotFoundError
from lensmount.v1 import adapters_pb2
from registering import Ref, asking, events, promote, register, roll_back
from serving import Kit, Served, refused

Rollback = adapters_pb2.RollbackRequest
SetAlias = adapters_pb2.SetAliasRequest


@pytest.fixture
async def three(server: Served, kit: Kit) -> Served:
    """A server with three versions of `defect`; `live` pointed at each, the third last."""
    for version in kit.defect:
        await register(server, version, "live")
    return server


async def test_rollbacks_go_back_step_by_step(three: Served) -> None:
    for etag in ("0", "x" * 30):
        stale = await refused(three.adapters.Rollback(Rollback(task="defect", etag=etag)))
        assert isinstance(stale, ConflictError)
        assert (stale.field, stale.value) == ("etag", etag)
        assert stale.fix
    first = await roll_back(three)
    assert (first.task, first.alias, first.version, first.previous_version) == ("defect", "live", 2, 3)
    assert first.switch_ms > 0
    assert not first.HasField("first_answer_ms")
    assert (await roll_back(three, alias="live", etag=first.etag)).version == 1
    error = await refused(three.adapters.Rollback(Rollback(task="defect")))
    assert isinstance(error, NotFoundError)
    assert (error.field, error.value) == ("alias", "defect@live")
    assert "no earlier version" in error.message
    assert "lensmount adapters history defect" in error.fix


async def test_a_rollback_to_a_version_that_the_alias_pointed_at(three: Served, kit: Kit) -> None:
    assert (await roll_back(three, version=1)).version == 1
    await three.adapters.DeleteAlias(adapters_pb2.DeleteAliasRequest(task="defect", alias="live"))
    await promote(three, 2)
    await promote(three, 3)
    error = await refused(three.adapters.Rollback(Rollback(task="defect", version=1)))
    assert isinstance(error, NotFoundError)
    assert (error.field, error.value) == ("version", "defect:1")
    assert "never pointed" in error.message
    assert error.fix
    assert (await roll_back(three, version=2)).previous_version == 3


async def test_a_rollback_passes_over_what_was_deleted(three: Served) -> None:
    await three.adapters.DeleteAdapter(adapters_pb2.DeleteAdapterRequest(task="defect", version=2))
    assert (await roll_back(three)).version == 1


async def test_an_etag_is_of_one_change(three: Served) -> None:
    new = await promote(three, 1, "canary", etag="0")
    assert new.previous_version == 0
    newer = await promote(three, 2, "canary", etag=new.etag)
    assert newer.etag != new.etag
    error = await refused(three.adapters.SetAlias(SetAlias(task="defect", alias="canary", version=3, etag=new.etag)))
    assert isinstance(error, ConflictError)
    assert (error.field, error.value) == ("etag", new.etag)
    assert "version 2" in error.message
    assert "lensmount adapters show defect@canary" in error.fix
    shown = await three.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=Ref(task="defect", alias="canary")))
    assert [(state.alias, state.etag) for state in shown.alias_states] == [("canary", newer.etag)]
    assert (await promote(three, 2, "canary", etag=newer.etag)).etag == newer.etag  # it points there already


async def test_of_concurrent_promoters_with_one_etag_one_wins(three: Served) -> None:
    for _ in range(5):
        before = await promote(three, 3)
        outcomes = await asyncio.gather(
            *(promote(three, version, etag=before.etag) for version in (1, 2)), return_exceptions=True
        )
        (won,) = [each for each in outcomes if isinstance(each, adapters_pb2.SetAliasResponse)]
        (lost,) = [each for each in outcomes if not isinstance(each, adapters_pb2.SetAliasResponse)]
        assert "etag" in str(lost)
        shown = await three.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(adapter=Ref(task="defect")))
        assert shown.version.version == won.version


async def test_the_first_answer_of_a_running_stream_is_timed(three: Served) -> None:
    async with asking(three, Ref(task="defect")) as stream:
        assert await stream.version() == 3
        waiting = asyncio.ensure_future(promote(three, 1, first_answer_timeout_ms=60_000))
        while not waiting.done():
            last = await stream.version()
        done = await waiting
        assert last == 1
        assert done.first_answer_ms >= done.switch_ms > 0
        waiting = asyncio.ensure_future(roll_back(three, first_answer_timeout_ms=60_000))
        while not waiting.done():
            last = await stream.version()
        assert (last, (await waiting).HasField("first_answer_ms")) == (3, True)


async def test_nobody_waits_for_a_first_answer_that_nobody_asks_for(three: Served) -> None:
    async with asyncio.timeout(30), asking(three, Ref(task="defect", alias="live", version=2)) as stream:
        assert await stream.version() == 2  # asked for by number: it follows no alias
        done = await promote(three, 1, first_answer_timeout_ms=60_000)
    assert not done.HasField("first_answer_ms")


async def test_an_idle_stream_is_not_waited_for_longer_than_asked(three: Served) -> None:
    async with asking(three, Ref(task="defect")) as stream:
        done = await promote(three, 1, first_answer_timeout_ms=50)
        assert not done.HasField("first_answer_ms")
        assert await stream.version() == 1
        newest = (await events(three))[-1].sequence
        moved = asyncio.ensure_future(promote(three, 2, first_answer_timeout_ms=60_000))
        async with asyncio.timeout(30):
            assert await next_pointed(three, newest) == 2
        await promote(three, 3)  # nobody is answered by 2 any more
        async with asyncio.timeout(30):
            assert not (await moved).HasField("first_answer_ms")
        assert await stream.version() == 3


async def next_pointed(server: Served, after: int) -> int:
    """The version that an alias is pointed at next after a change, once it took effect."""
    request = adapters_pb2.WatchAdaptersRequest(after_sequence=after)
    async for event in server.adapters.WatchAdapters(request):
        if event.kind == adapters_pb2.AdapterEvent.KIND_ALIAS_SET:
            return event.adapter.version
    raise AssertionError("the watch ended")
