"""Swaps under load, through catalog, scheduler and engine: no row is lost, none is answered by other weights."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from houses import LIVE, SHOTS, SURFACE, House, of, opened, oracle, stock
from lensmount.errors import LensmountError
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.hotset import HotLimits, HotSet
from lensmount_server.mounts import Mounted, Mounts
from serving import CLOSE, PATIENCE_S, Kit


@dataclass(frozen=True)
class Row:
    """One answer, the last promotion that was done when it was asked for, and the last that had begun when it came."""

    shot: int
    want: Want
    answer: Answer
    done: int
    begun: int


@dataclass
class Load:
    """Frames from several callers while `live` is moved as fast as it goes; `promoted` is what it was moved to.

    Whoever moves it asks for a frame each time: nothing but the new version may answer that.
    """

    house: House
    frames: int
    callers: int
    draw: random.Random
    promoted: list[int] = field(default_factory=lambda: [1])
    done: int = 0
    rows: list[Row] = field(default_factory=list)

    async def run(self) -> list[Row]:
        await asyncio.gather(self._promote(), *(self._call() for _ in range(self.callers)))
        return self.rows

    async def _call(self) -> None:
        choices = [LIVE, SURFACE, Want("grade"), *(Want("defect", version=number) for number in (1, 2, 3))]
        while len(self.rows) < self.frames:
            await self._ask(self.draw.sample(choices, self.draw.randint(1, 3)))

    async def _promote(self) -> None:
        while len(self.rows) < self.frames:
            version = self.draw.choice([1, 2, 3])
            self.promoted.append(version)
            await self.house.catalog.promote("defect", "live", version)
            self.done = len(self.promoted) - 1
            await self._ask([LIVE])

    async def _ask(self, wants: Sequence[Want]) -> None:
        shot, done = self.draw.randrange(len(SHOTS)), self.done
        answers = await self.house.catalog.answer(Frame(Still(SHOTS[shot])), wants)
        begun = len(self.promoted)
        self.rows += [Row(shot, want, answer, done, begun) for want, answer in zip(wants, answers, strict=True)]


def check(rows: list[Row], promoted: list[int], kit: Kit) -> None:
    """Each row is of the task and version asked, by the weights that it names, and by no version that was replaced."""
    for row in rows:
        answer = row.answer
        assert answer.adapter.task == row.want.task
        assert row.want.version in (0, answer.adapter.version)
        assert answer.scores == pytest.approx(oracle(kit)[answer.adapter.content_hash][row.shot], abs=CLOSE)
        if row.want == LIVE:
            assert answer.adapter.version in promoted[row.done : row.begun]


@pytest.mark.parametrize(("hot", "callers"), [(1, 2), (2, 3), (256, 12)])
async def test_promotions_under_load_lose_and_misroute_nothing(
    kit: Kit, tmp_path: Path, hot: int, callers: int
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(hot)) as house:
        load = Load(house, 2000, callers, random.Random(hot))
        rows = await asyncio.wait_for(load.run(), 4 * PATIENCE_S)
        state = house.catalog.residency.state()
        assert len(rows) >= 2000
        check(rows, load.promoted, kit)
        assert house.engine.wrong == []
        assert len({row.answer.adapter.version for row in rows if row.want == LIVE}) == 3
        assert len(load.promoted) > 10
        assert (state.leased, state.pinned, state.quarantined) == (0, 0, 0)
        assert state.hot == min(hot, 5)
        assert (state.evictions > 20) == (hot < 5)


class Stale(Mounts):
    """A control: after a flip it goes on with the adapter from before, under the new name or its own."""

    def __init__(self, renamed: bool) -> None:
        super().__init__()
        self._renamed = renamed
        self._before: Mounted | None = None

    def point(self, alias: str, mounted: Mounted, seq: int | None = None) -> bool:
        if mounted.id.task == "defect" and LIVE.alias == alias and self.version_now() is not None:
            self._before = super().resolve(LIVE)
        return super().point(alias, mounted, seq)

    def version_now(self) -> VersionId | None:
        try:
            return super().resolve(LIVE).id
        except LensmountError:
            return None

    def resolve(self, want: Want) -> Mounted:
        found = super().resolve(want)
        if want != LIVE or self._before is None:
            return found
        return Mounted(found.id, self._before.adapter) if self._renamed else self._before


@pytest.mark.parametrize("renamed", [False, True])
async def test_the_adapter_from_before_a_flip_would_be_noticed(kit: Kit, tmp_path: Path, renamed: bool) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Stale(renamed)) as house:
        load = Load(house, 300, 12, random.Random(0))
        rows = await asyncio.wait_for(load.run(), 4 * PATIENCE_S)
    with pytest.raises(AssertionError):
        check(rows, load.promoted, kit)


class Hasty(HotSet):
    """A control: drops what is leased too."""

    def _victim(self) -> Mounted | None:
        return next(iter(self._hot.values()), None)


async def test_dropping_what_is_under_way_would_be_noticed(kit: Kit, tmp_path: Path) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Mounts(Hasty(HotLimits(2)))) as house:
        held = asyncio.Event()

        async def churn() -> None:
            while not held.is_set():
                for want in (Want("grade"), SURFACE, LIVE):
                    await house.catalog.ensure([want])

        churning = asyncio.create_task(churn())
        for _ in range(200):
            try:
                await house.catalog.answer(Frame(Still(SHOTS[0])), [LIVE, SURFACE])
            except LensmountError:
                break
        held.set()
        await churning
    assert house.engine.wrong
