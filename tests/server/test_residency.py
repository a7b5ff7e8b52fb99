from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount.errors import (
    IncompatibleError,
    InvalidInputError,
    LensmountError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from lensmount_adapters.adapter import Adapter
from lensmount_server import residency as module
from lensmount_server.frames import VersionId
from lensmount_server.hostcache import HostCache
from lensmount_server.hotset import HotLimits, HotSet, Mounted
from lensmount_server.residency import LOADERS, NICE, Residency
from lensmount_server.whereabouts import Place, Whereabouts
from residents import Disk, WarmerLog, adapter_of, version_id
from serving import PATIENCE_S, eventually


@asynccontextmanager
async def resident(
    disk: Disk, warmer: WarmerLog, hot: HotSet | None = None, cached: int = 0
) -> AsyncIterator[Residency]:
    residency = Residency(HotSet() if hot is None else hot, warmer, disk, cache=HostCache(cached))
    try:
        yield residency
    finally:
        disk.go_on.set()
        await asyncio.wait_for(residency.close(), PATIENCE_S)


def trouble_with(number: int, error: Callable[[], Exception]) -> Callable[[VersionId], Exception | None]:
    return lambda version: error() if version.version == number else None


async def test_all_who_want_a_cold_version_share_one_load() -> None:
    disk, warmer = Disk(held=frozenset({1})), WarmerLog()
    async with resident(disk, warmer) as residency:
        asked = [asyncio.create_task(residency.load(version_id(1))) for _ in range(20)]
        await eventually(lambda: disk.reads, "the version is being read")
        disk.go_on.set()
        first, *rest = await asyncio.gather(*asked)
        assert all(each is first for each in rest)
        assert first.id == version_id(1)
        assert await residency.load(version_id(1)) is first
        assert (disk.reads, warmer.mounts) == ({"defect-1": 1}, {"defect-1": 1})
        assert residency.state().loads == 1


async def test_who_wants_another_version_does_not_wait_for_it() -> None:
    disk = Disk(held=frozenset({1}))
    async with resident(disk, WarmerLog()) as residency:
        slow = asyncio.create_task(residency.load(version_id(1)))
        await eventually(lambda: disk.reads, "the version is being read")
        assert (await asyncio.wait_for(residency.load(version_id(2)), PATIENCE_S)).id == version_id(2)
        assert not slow.done()
        disk.go_on.set()
        await slow


async def test_a_version_is_hot_only_when_it_is_warm() -> None:
    disk, hot = Disk(held=frozenset({1})), HotSet()
    async with resident(disk, WarmerLog(), hot) as residency:
        asked = asyncio.create_task(residency.load(version_id(1)))
        await eventually(lambda: disk.reads, "the version is being read")
        assert hot.find("defect-1") is None
        disk.go_on.set()
        ready = await asked
        assert hot.find("defect-1") is ready


async def test_a_load_goes_on_when_its_caller_goes_away() -> None:
    disk, warmer, hot = Disk(held=frozenset({1})), WarmerLog(), HotSet()
    async with resident(disk, warmer, hot) as residency:
        asked = asyncio.create_task(residency.load(version_id(1)))
        await eventually(lambda: disk.reads, "the version is being read")
        asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled()
        disk.go_on.set()
        await eventually(lambda: "defect-1" in hot, "the version is hot all the same")
        assert warmer.warm == {"defect-1"}


async def test_what_leaves_is_unmounted_once_nobody_holds_it_and_comes_back_as_the_same() -> None:
    disk, warmer, hot = Disk(), WarmerLog(), HotSet(HotLimits(1))
    async with resident(disk, warmer, hot) as residency:
        hot.lease("defect-1")
        held = await residency.load(version_id(1))
        await residency.load(version_id(2))
        assert "defect-1" in hot
        hot.release("defect-1")
        await residency.load(version_id(2))
        await eventually(lambda: warmer.warm == {"defect-2"}, "the first has left the engine")
        back = await residency.load(version_id(1))
        assert back is not held
        assert back.id == held.id
        assert back.adapter.content_hash == held.adapter.content_hash
        assert disk.reads["defect-1"] == 2


async def test_what_left_and_is_still_on_the_host_comes_back_without_the_disk() -> None:
    disk, warmer, hot = Disk(), WarmerLog(), HotSet(HotLimits(1))
    async with resident(disk, warmer, hot, cached=1 << 20) as residency:
        first = await residency.load(version_id(1))
        await residency.load(version_id(2))
        await eventually(lambda: residency.state().cached == 1, "the first is in the host cache")
        assert residency.state().cached_bytes == first.adapter.size_bytes
        assert (await residency.load(version_id(1))).adapter is first.adapter
        assert disk.reads == {"defect-1": 1, "defect-2": 1}
        assert warmer.mounts["defect-1"] == 2


async def test_where_a_version_is_at_every_moment() -> None:
    disk, hot = (
        Disk(
            held=frozenset({1}),
            fails=trouble_with(3, lambda: IncompatibleError("NaN", fix="train")),
        ),
        HotSet(HotLimits(1)),
    )

    def where(number: int) -> Place:
        return residency.whereabouts(f"defect-{number}").place

    async with resident(disk, WarmerLog(), hot, cached=1 << 20) as residency:
        assert where(1) is Place.COLD
        asked = asyncio.create_task(residency.load(version_id(1)))
        await eventually(lambda: disk.reads, "the version is being read")
        assert where(1) is Place.LOADING
        disk.go_on.set()
        await asked
        assert where(1) is Place.HOT
        await residency.load(version_id(2))
        assert where(2) is Place.HOT
        await eventually(lambda: where(1) is Place.HOST_CACHED, "it has left")
        with pytest.raises(IncompatibleError):
            await residency.load(version_id(3))
        assert residency.whereabouts("defect-3") == Whereabouts(Place.QUARANTINED, "NaN; train")
        assert residency.whereabouts("defect-2") == Whereabouts(Place.HOT)


async def test_what_comes_from_the_host_is_put_on_the_device() -> None:
    cache, device = HostCache(), torch.device("meta")
    cache.put(adapter_of(version_id(1)))
    residency = Residency(HotSet(), WarmerLog(), Disk(), device, cache)
    ready = await residency.load(version_id(1))
    assert ready.adapter.replaced[0]["weight"].device == device
    await residency.close()


async def test_what_is_wanted_while_it_leaves_stays_warm() -> None:
    disk, warmer, hot = Disk(), WarmerLog(), HotSet(HotLimits(1))
    async with resident(disk, warmer, hot) as residency:
        first = await residency.load(version_id(1))
        hot.put(Mounted(version_id(2), adapter_of(version_id(2))))
        assert "defect-1" not in hot
        hot.lease("defect-1")
        assert await residency.load(version_id(1)) is first
        await asyncio.sleep(0)
        assert "defect-1" in warmer.warm
        assert warmer.mounts["defect-1"] == 1


# What is wrong with one version is nobody else's trouble.

LASTING = [
    lambda: InvalidInputError("holds NaN or infinity", field="adapter_model.safetensors: head", fix="train again"),
    lambda: IncompatibleError("other weights", field="task.json"),
    lambda: TooLargeError("rank 4096"),
]


@pytest.mark.parametrize("error", LASTING)
@pytest.mark.parametrize("where", ["disk", "warm-up"])
async def test_a_version_that_can_not_answer_is_in_quarantine(
    error: Callable[[], LensmountError], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk, warmer = Disk(), WarmerLog()
    if where == "disk":
        disk.fails = trouble_with(1, error)
    else:
        warmer.fails = lambda content_hash: error() if content_hash == "defect-1" else None
    async with resident(disk, warmer) as residency:
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(IncompatibleError, match=f"in quarantine: .*{error().message}") as caught:
                    await residency.load(version_id(1))
        assert (caught.value.field, caught.value.value) == ("adapter", "defect:1")
        assert caught.value.fix
        assert caplog.text.count("defect:1 is in quarantine") == 1
        assert disk.reads["defect-1"] == 1
        assert (await residency.load(version_id(2))).id == version_id(2)
        assert residency.state().quarantined == 1
        assert warmer.warm == {"defect-2"}


async def test_a_defect_of_the_engine_puts_that_version_in_quarantine_and_its_trace_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warmer = WarmerLog(lambda content_hash: RuntimeError("secret detail") if content_hash == "defect-1" else None)
    async with resident(Disk(), warmer) as residency:
        with caplog.at_level(logging.ERROR), pytest.raises(IncompatibleError, match="in quarantine") as caught:
            await residency.load(version_id(1))
        assert "secret detail" in caplog.text
        assert "secret detail" not in str(caught.value)
        assert await residency.load(version_id(2))


PASSING = [
    lambda: NotFoundError("its package is gone"),
    lambda: UnavailableError("no slot"),
    lambda: OSError(24, "Too many open files"),
    MemoryError,
    torch.OutOfMemoryError,
]


@pytest.mark.parametrize("error", PASSING)
async def test_what_may_pass_is_told_and_tried_again(error: Callable[[], Exception]) -> None:
    disk = Disk(fails=trouble_with(1, error))
    async with resident(disk, WarmerLog()) as residency:
        with pytest.raises((NotFoundError, UnavailableError)):
            await residency.load(version_id(1))
        disk.fails = lambda _: None
        assert (await residency.load(version_id(1))).id == version_id(1)
        assert residency.state().quarantined == 0


async def test_the_versions_that_wait_to_be_loaded_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOADING", LOADERS + 1)
    disk = Disk(held=frozenset(range(9)))
    async with resident(disk, WarmerLog()) as residency:
        asked = [asyncio.create_task(residency.load(version_id(number))) for number in range(LOADERS + 1)]
        await eventually(lambda: disk.reads.total() == LOADERS, "the loaders are busy")
        with pytest.raises(TooLargeError, match="wait to be loaded"):
            await residency.load(version_id(LOADERS + 1))
        disk.go_on.set()
        await asyncio.gather(*asked)
        assert await residency.load(version_id(LOADERS + 1))


async def test_closing_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    disk, warmer = Disk(held=frozenset({1})), WarmerLog()
    async with resident(disk, warmer) as residency:
        asked = asyncio.create_task(residency.load(version_id(1)))
        await eventually(lambda: disk.reads, "the version is being read")
        closing = asyncio.create_task(residency.close())
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="stopping"):
            await residency.load(version_id(2))
        disk.go_on.set()
        assert (await asked).id == version_id(1)
        await closing


# The trial of what is not registered yet.


async def refuse(residency: Residency, warmer: WarmerLog) -> None:
    async with residency.trial(adapter_of(version_id(1))):
        assert warmer.warm == {"defect-1"}
        raise IncompatibleError("golden check")


async def test_a_trial_is_of_the_form_that_will_answer() -> None:
    """What is checked in a trial must not be another form than the one that takes over a moment later."""
    warmer = WarmerLog()
    async with resident(Disk(), warmer) as residency:
        async with residency.trial(adapter_of(version_id(1))):
            assert warmer.settled == [("defect-1", True)]
        await residency.load(version_id(2))
        assert len(warmer.settled) == 1  # a cold version answers as soon as it can


async def test_loading_steps_back() -> None:
    priorities: list[int] = []

    class Witness(WarmerLog):
        def mount(self, adapter: Adapter) -> None:
            super().mount(adapter)
            priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with resident(Disk(), Witness()) as residency:
        await residency.load(version_id(1))
    assert priorities == [max(own, NICE)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


async def test_a_trial_that_is_not_kept_leaves_nothing() -> None:
    warmer, hot = WarmerLog(), HotSet()
    async with resident(Disk(), warmer, hot) as residency:
        with pytest.raises(IncompatibleError, match="golden"):
            await refuse(residency, warmer)
        assert not warmer.warm
        assert not len(hot)


async def test_a_trial_that_fails_on_warm_up_says_so_and_quarantines_nothing() -> None:
    warmer = WarmerLog(lambda _: IncompatibleError("NaN"))
    async with resident(Disk(), warmer) as residency:
        with pytest.raises(IncompatibleError, match="NaN"):
            async with residency.trial(adapter_of(version_id(1))):
                pytest.fail("it did not pass")
        assert residency.state().quarantined == 0


async def test_what_is_kept_answers_and_its_quarantine_is_over() -> None:
    disk, warmer, hot = Disk(fails=trouble_with(1, lambda: IncompatibleError("changed"))), WarmerLog(), HotSet()
    async with resident(disk, warmer, hot) as residency:
        with pytest.raises(IncompatibleError):
            await residency.load(version_id(1))
        adapter = adapter_of(version_id(1))
        async with residency.trial(adapter):
            residency.keep(Mounted(version_id(1), adapter))
        assert (await residency.load(version_id(1))).adapter is adapter
        assert residency.state().quarantined == 0
        assert warmer.warm == {"defect-1"}


async def test_a_trial_of_what_is_hot_does_not_disturb_it() -> None:
    warmer, hot = WarmerLog(), HotSet()
    async with resident(Disk(), warmer, hot) as residency:
        there = await residency.load(version_id(1))
        with pytest.raises(IncompatibleError, match="golden"):
            await refuse(residency, warmer)
        assert hot.find("defect-1") is there
        assert warmer.mounts == {"defect-1": 1}
        assert warmer.warm == {"defect-1"}


# Any order of it all: the engine is told in turns, and never lets go of what somebody holds.


async def turmoil(seed: int, limit: int, steps: int, warmer: WarmerLog) -> None:
    draw, hot = random.Random(seed), HotSet(HotLimits(limit))
    disk = Disk(fails=trouble_with(5, lambda: IncompatibleError("bad")))

    async def user(residency: Residency) -> None:
        for _ in range(steps):
            number = draw.randint(1, 5)
            content_hash = version_id(number).content_hash
            hot.lease(content_hash)
            try:
                await residency.load(version_id(number))
                for _ in range(draw.randint(0, 4)):
                    assert hot.find(content_hash) is not None
                    assert content_hash in warmer.warm
                    await asyncio.sleep(0)
            except IncompatibleError:
                assert number == 5
            finally:
                hot.release(content_hash)

    async def registrar(residency: Residency) -> None:
        for _ in range(steps):
            adapter = adapter_of(version_id(draw.randint(1, 4)))
            async with residency.trial(adapter):
                await asyncio.sleep(0)
                if draw.random() < 0.5:
                    number = int(adapter.content_hash.partition("-")[2])
                    residency.keep(Mounted(version_id(number), adapter))

    async with resident(disk, warmer, hot, cached=draw.choice([0, 8, 1 << 20])) as residency:
        await asyncio.gather(*(user(residency) for _ in range(4)), registrar(residency))
        await eventually(lambda: not residency._dropping, "all that left is dropped")
        everything = {version_id(number).content_hash for number in range(1, 6)}
        assert warmer.warm == {content_hash for content_hash in everything if content_hash in hot}
        assert not hot.leased
        assert len(hot) <= limit


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 4))
def test_in_any_order_the_engine_is_told_in_turns(seed: int, limit: int) -> None:
    warmer = WarmerLog()
    asyncio.run(turmoil(seed, limit, 12, warmer))
    assert warmer.wrong == []


class Careless(Residency):
    """A control: things happen to one version at the same time."""

    @asynccontextmanager
    async def _turn(self, content_hash: str) -> AsyncIterator[None]:
        del content_hash
        yield


def test_things_that_happen_at_the_same_time_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "Residency", Careless)
    wrong = []
    for seed in range(20):
        warmer = WarmerLog()
        try:
            asyncio.run(turmoil(seed, 1, 12, warmer))
        except AssertionError as error:
            wrong.append(str(error))
        wrong += warmer.wrong
    assert wrong
