"""Two servers on one registry: what one changes takes effect on the other, in order, whatever is slow or away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from lensmount.errors import IncompatibleError, NotFoundError, UnavailableError
from lensmount_server.following import Follower
from lensmount_server.frames import Want
from lensmount_server.mounts import Mounts
from lensmount_server.registry import Entry, Kind, Places, Registry
from lensmount_server.residency import Residency
from registries import Shelf, add, add_all, opened, points
from residents import Disk, WarmerLog
from serving import PATIENCE_S, eventually

LIVE = Want("defect")
# What is promised to an operator: another server's promotion answers here within two seconds.
PROMISED_S = 2.0
Between = Callable[[], Awaitable[object]]


async def at_once() -> None:
    """Nothing comes in between."""


async def a_while() -> None:
    """Other things may come in between."""
    await asyncio.sleep(0.03)


@dataclass(frozen=True, eq=False)
class Station:
    """What of a server has to do with aliases."""

    registry: Registry
    mounts: Mounts
    residency: Residency
    follower: Follower

    async def promote(self, version: int, alias: str = "live", between: Between = at_once) -> None:
        """As the catalog does it: loaded, written down, then answering; something may come in between the last two."""
        identity = await asyncio.to_thread(self.registry.identify, "defect", version)
        mounted = await self.residency.load(identity)
        change = await asyncio.to_thread(self.registry.set_alias, "defect", alias, version)
        await between()
        self.mounts.point(alias, mounted, change.seq)
        self.follower.kick()

    def table(self) -> dict[tuple[str, str], int]:
        """What answers here."""
        return {(task, alias): each.version for (task, alias), each in self.mounts._aliases.items()}

    def answers(self, want: Want = LIVE) -> int:
        """The version that answers; 0 for none."""
        try:
            version = self.mounts.version(want)
        except NotFoundError:
            return 0
        return version.version if version else 0


@asynccontextmanager
async def station(
    directory: Path, places: Places, disk: Disk | None = None, mounts: Mounts | None = None
) -> AsyncIterator[Station]:
    with opened(directory, places) as registry:
        mounts = mounts or Mounts()
        residency = Residency(mounts.hot, WarmerLog(), disk or Disk())
        follower = Follower(registry, mounts, residency)
        await follower.start()
        try:
            yield Station(registry, mounts, residency, follower)
        finally:
            await follower.close()
            await residency.close()


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(f"sqlite:///{tmp_path / 'registry.sqlite'}", str(tmp_path / "blobs"))


@pytest.fixture
def stocked(tmp_path: Path, places: Places, tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Three versions, the first live."""
    with opened(tmp_path / "first", places) as registry:
        add_all(registry, Shelf(tmp_path_factory.mktemp("shelf")), 3)
        registry.set_alias("defect", "live", 1)
    return places


@asynccontextmanager
async def pair(
    folder: Path, places: Places, disk: Disk | None = None, mounts: type[Mounts] = Mounts
) -> AsyncIterator[tuple[Station, Station]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(station(folder / "one", places, None, mounts()))
        two = await stack.enter_async_context(station(folder / "two", places, disk, mounts()))
        yield one, two


def answers(there: Station, version: int) -> bool:
    return there.answers() == version


def has_seen(there: Station, seq: int) -> bool:
    return there.follower.seq >= seq


async def quiet(*stations: Station) -> None:
    """Wait until each has seen all that was written."""
    last = stations[0].registry.pointed()[1]
    for each in stations:
        await eventually(partial(has_seen, each, last), "all is seen")


async def test_a_promotion_by_one_is_applied_by_the_other(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        assert (one.answers(), two.answers()) == (1, 1)
        for here, there, version in ((one, two, 2), (two, one, 3), (one, two, 1)):
            await here.promote(version)
            assert here.answers() == version
            async with asyncio.timeout(PROMISED_S):
                await eventually(partial(answers, there, version), "it is applied")


async def test_an_alias_that_one_takes_away_is_gone_on_the_other(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        gone: list[str] = []
        two.follower.on_gone = gone.append
        await one.promote(2, "canary")
        one.registry.delete_alias("defect", "live")
        await eventually(lambda: two.answers() == 0, "the alias is gone")
        assert two.answers(Want("defect", "canary")) == 2
        assert gone == []
        one.registry.delete_task("defect")
        await eventually(lambda: gone == ["defect"], "the task is gone")
        with pytest.raises(NotFoundError, match="deleted"):
            two.mounts.version(Want("defect", version=2))


async def overtake(one: Station, two: Station) -> None:
    """One writes version 2 and has it answer only after it has seen that the other promoted version 3."""
    seen = asyncio.Event()
    late = asyncio.create_task(one.promote(2, between=seen.wait))
    await eventually(lambda: points(one.registry) == {("defect", "live"): 2}, "the first is written")
    await two.promote(3)
    await quiet(one, two)
    seen.set()
    await late


class Forgetful(Mounts):
    """A control: whoever comes last is believed, whatever was written after it."""

    def _is_news(self, key: tuple[str, str], seq: int | None) -> bool:  # noqa: ARG002 - that is what is wrong
        super()._is_news(key, None)
        return True


async def interleave(one: Station, two: Station, draw: random.Random) -> None:
    """Promotions by both at once, some of which take long between writing and answering."""

    async def work(here: Station) -> None:
        for _ in range(8):
            await asyncio.sleep(draw.uniform(0, 0.02))
            await here.promote(draw.randint(1, 3), draw.choice(["live", "canary"]), draw.choice([at_once, a_while]))

    await asyncio.gather(work(one), work(two), work(two))
    await quiet(one, two)


@pytest.mark.parametrize("seed", range(5))
async def test_after_any_interleaving_both_say_what_the_database_says(
    tmp_path: Path, stocked: Places, seed: int
) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        await interleave(one, two, random.Random(seed))
        assert one.table() == two.table() == points(one.registry)


async def test_one_that_does_not_look_at_the_order_is_caught(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked, mounts=Forgetful) as (one, two):
        await overtake(one, two)
        assert one.table() != points(one.registry)


async def test_a_promotion_that_was_overtaken_does_not_come_back(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        await overtake(one, two)
        assert one.table() == two.table() == points(one.registry) == {("defect", "live"): 3}


async def test_a_load_without_end_does_not_keep_the_old_version(tmp_path: Path, stocked: Places) -> None:
    disk = Disk(held=frozenset({2}))
    async with pair(tmp_path, stocked, disk) as (one, two):
        try:
            with two.mounts.pinned([LIVE]):
                await one.promote(2)
                await eventually(lambda: two.answers() == 2, "the alias moves on")
                await one.promote(3)
                await eventually(lambda: two.answers() == 3, "others are not held up")
                assert two.mounts.resolve(LIVE).id.version == 3
        finally:
            disk.go_on.set()


@pytest.mark.parametrize("error", [UnavailableError("broken"), NotFoundError("gone"), MemoryError()])
async def test_a_version_that_can_not_be_loaded_does_not_keep_the_old_one(
    tmp_path: Path, stocked: Places, error: Exception
) -> None:
    disk = Disk(fails=lambda version: error if version.version == 2 else None)
    async with pair(tmp_path, stocked, disk) as (one, two):
        with two.mounts.pinned([LIVE]):
            await one.promote(2)
            await eventually(lambda: two.answers() == 2, "the alias moves on")


async def test_a_registry_that_is_away_is_caught_up_with_when_it_is_back(
    tmp_path: Path, stocked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> list[Entry]:
        raise UnavailableError("the database is away", fix="wait")

    async with pair(tmp_path, stocked) as (one, two):
        with monkeypatch.context() as patch:
            patch.setattr(two.registry, "since", away)
            await eventually(lambda: two.follower.behind_s > 0, "it is noticed")
            for version in (2, 3, 2):
                await one.promote(version)
            assert two.answers() == 1
        await eventually(lambda: two.answers() == 2, "it is caught up with")
        await eventually(lambda: two.follower.behind_s == 0, "that is noticed")


async def test_watchers_of_both_are_told_the_same_in_order(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):

        async def watch(here: Station) -> list[tuple[int, Kind, int]]:
            told: list[tuple[int, Kind, int]] = []
            async with here.follower.watching(after=0) as news:
                async for entry in news:
                    assert isinstance(entry, Entry)
                    # It took effect here before it was told.
                    assert here.follower.seq >= entry.seq
                    told.append((entry.seq, entry.kind, entry.version.version))
                    if entry.kind is Kind.PINNED:
                        break
            return told

        watching = [asyncio.create_task(watch(each)) for each in (one, two)]
        await interleave(one, two, random.Random(9))
        two.registry.pin("defect", 1, "the end")
        first, second = await asyncio.wait_for(asyncio.gather(*watching), PATIENCE_S)
        assert first == second
        assert [seq for seq, *_ in first] == list(range(1, len(first) + 1))


async def test_what_streams_ask_for_is_noted_and_let_go(
    tmp_path: Path, stocked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        await two.follower.note([("defect", 2)])
        with pytest.raises(NotFoundError):
            await two.follower.note([("defect", 9)])
        assert [each.version for each in one.registry.collect(0).removed] == [3]
        monkeypatch.setattr("lensmount_server.following.NOTED_S", 0.0)
        await eventually(lambda: one.registry.collect(0, dry_run=True).removed != (), "it is let go")


async def test_what_another_server_set_is_handed_on_with_its_number(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        turned: list[tuple[str, int, int]] = []
        two.follower.on_turned = lambda alias, version, seq: turned.append((alias, version.version, seq))
        await one.promote(2)
        await eventually(lambda: turned, "it is handed on")
        assert turned == [("live", 2, one.registry.events(1)[0].seq)]


async def test_content_that_another_server_mended_leaves_quarantine(tmp_path: Path, stocked: Places) -> None:
    async with pair(tmp_path, stocked) as (one, two):
        version = two.registry.identify("defect", 2)
        two.residency._quarantine.add(version, IncompatibleError("changed on disk"))
        assert add(one.registry, Shelf(tmp_path / "shelf"), "2")[0].id == version
        await eventually(lambda: two.residency.state().quarantined == 0, "it is lifted")
