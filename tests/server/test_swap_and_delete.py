"""Promotions, rollbacks, deletions and registrations at random under load: each answer is by the weights that it names,
and by a version that the alias pointed at between the frame's question and its answer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from houses import LIVE, SHOTS, SURFACE, House, of, opened, oracle, register, stock
from lensmount.errors import IncompatibleError, LensmountError, NotFoundError
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.hotset import Mounted
from lensmount_server.mounts import Mounts
from serving import CLOSE, PATIENCE_S, Kit

NOWHERE = VersionId("defect", 0, "")


@dataclass(frozen=True)
class Row:
    """One answer, None for NotFoundError; the alias's history from `done` to `begun` is what it may have been by."""

    shot: int
    want: Want
    answer: Answer | None
    done: int
    begun: int


@dataclass
class Life:
    """Frames from several callers while one operator does all that an operator can do.

    `pointed` is what `live` of `defect` was made to point at, one entry a change; the change at `done` had taken
    effect. `numbers` are the versions that there are, with their content, `highest` was the last to come; `counts`
    says what was done how often.
    """

    house: House
    kit: Kit
    draw: random.Random
    turns: int
    pointed: list[VersionId] = field(default_factory=list)
    done: int = 0
    rows: list[Row] = field(default_factory=list)
    numbers: dict[int, str] = field(default_factory=dict)
    highest: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    over: bool = False

    async def run(self) -> None:
        """Live it."""
        first = await self.house.catalog.answer(Frame(Still(SHOTS[0])), [LIVE])
        self.pointed.append(first[0].adapter)
        self.numbers = {number: each.adapter.content_hash for number, each in enumerate(self.kit.defect, 1)}
        await asyncio.gather(self._operate(), *(self._call() for _ in range(3)))

    async def _call(self) -> None:
        while not self.over:
            await self._ask(self.draw.choice([LIVE, LIVE, SURFACE, Want("defect", version=self._number())]))

    async def _ask(self, want: Want) -> None:
        shot, done = self.draw.randrange(len(SHOTS)), self.done
        answer: Answer | None = None
        try:
            (answer,) = await self.house.catalog.answer(Frame(Still(SHOTS[shot])), [want])
        except NotFoundError:
            await asyncio.sleep(0)
        self.rows.append(Row(shot, want, answer, done, len(self.pointed)))

    async def _operate(self) -> None:
        acts = [*[self._promote] * 3, *[self._roll_back] * 3, self._take_down, self._delete, *[self._register] * 2]
        for number in (2, 3):
            await self._point(VersionId("defect", number, self.numbers[number]), number)
        await self._roll_back()
        self._count(self._roll_back.__name__)
        for turn in range(self.turns):
            if turn % len(acts) == 0:
                self.draw.shuffle(acts)
            act = acts[turn % len(acts)]
            try:
                await act()
            except (NotFoundError, IncompatibleError):
                self._count("refused")
            else:
                self._count(act.__name__)
            await self._ask(LIVE)
        self.over = True

    async def _promote(self) -> None:
        number = self._number()
        await self._point(VersionId("defect", number, self.numbers.get(number, "")), number)

    async def _point(self, version: VersionId, number: int) -> None:
        self.pointed.append(version)
        try:
            await self.house.catalog.promote("defect", "live", number)
        except NotFoundError:
            self.pointed.append(self.pointed[self.done])
            raise
        finally:
            self.done = len(self.pointed) - 1

    async def _roll_back(self) -> None:
        registry = self.house.catalog.registry
        target, _ = await asyncio.to_thread(registry.rollback_target, "defect", "live")
        self.pointed.append(target.version)
        await self.house.catalog.roll_back("defect", "live")
        self.done = len(self.pointed) - 1

    async def _take_down(self) -> None:
        self.pointed.append(NOWHERE)
        try:
            await self.house.catalog.change(self.house.catalog.registry.delete_alias, "defect", "live")
        finally:
            self.done = len(self.pointed) - 1

    async def _delete(self) -> None:
        pointed = self.pointed[self.done].version
        number = self.draw.choice([each for each in self.numbers if each != pointed] or [pointed])
        await self.house.catalog.change(self.house.catalog.registry.delete, "defect", number)
        del self.numbers[number]

    async def _register(self) -> None:
        version = await register(self.house.catalog, self.draw.choice(self.kit.defect).folder)
        self.numbers[version.version] = version.content_hash
        self.highest = max(self.highest, version.version)

    def _number(self) -> int:
        return self.draw.choice([*self.numbers, 1])

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def check(life: Life) -> None:
    """Each answer is by the weights that it names, and nothing answers that the alias did not point at."""
    for row in life.rows:
        allowed = life.pointed[row.done : row.begun]
        if row.answer is None:
            assert row.want.version or NOWHERE in allowed
            continue
        adapter = row.answer.adapter
        assert adapter.task == row.want.task
        assert row.want.version in (0, adapter.version)
        assert row.answer.scores == pytest.approx(oracle(life.kit)[adapter.content_hash][row.shot], abs=CLOSE)
        if row.want == LIVE:
            assert adapter in allowed


@pytest.mark.parametrize(("seed", "hot"), [(0, 256), (1, 2)])
async def test_whatever_an_operator_does_under_load_every_answer_is_by_what_it_names(
    kit: Kit, tmp_path: Path, seed: int, hot: int
) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", of(hot)) as house:
        life = Life(house, kit, random.Random(seed), turns=60)
        await asyncio.wait_for(life.run(), 4 * PATIENCE_S)
        check(life)
        state = house.catalog.residency.state()
    assert house.engine.wrong == []
    assert (state.leased, state.pinned, state.quarantined) == (0, 0, 0)
    assert len(life.counts) == 6
    assert len(life.rows) > 150
    assert life.highest > 3  # what was deleted came again
    numbers = {row.answer.adapter for row in life.rows if row.answer and row.want.task == "defect"}
    assert len({version.version for version in numbers}) == len(numbers)  # no number was given twice


class Clinging(Mounts):
    """A control: goes on with what an alias pointed at when it is taken away, or with its weights when it moves on."""

    def __init__(self, of_deleted: bool) -> None:
        super().__init__()
        self._of_deleted = of_deleted
        self._before: Mounted | None = None

    def take_down(self, task: str, alias: str, seq: int) -> bool:
        return self._of_deleted or super().take_down(task, alias, seq)

    def turn(self, alias: str, version: VersionId, seq: int | None = None) -> bool:
        if version.task == "defect" and not self._of_deleted:
            with suppress(LensmountError):
                self._before = super().resolve(LIVE)
        return super().turn(alias, version, seq)

    def resolve(self, want: Want) -> Mounted:
        found = super().resolve(want)
        return Mounted(found.id, self._before.adapter) if want == LIVE and self._before is not None else found


@pytest.mark.parametrize("of_deleted", [True, False])
async def test_what_should_be_gone_would_be_noticed(kit: Kit, tmp_path: Path, of_deleted: bool) -> None:
    await stock(kit, tmp_path / "data")
    async with opened(kit, tmp_path / "data", Clinging(of_deleted)) as house:
        life = Life(house, kit, random.Random(0), turns=20)
        await asyncio.wait_for(life.run(), 4 * PATIENCE_S)
    with pytest.raises(AssertionError):
        check(life)
