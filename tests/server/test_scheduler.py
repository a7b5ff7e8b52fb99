from __future__ import annotations

import asyncio
import logging
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from factories import pictures
from lensmount.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnavailableError,
)
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server import scheduler as module
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.reference import ReferenceExecutor
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.mounts import Mounted, Mounts
from lensmount_server.scheduler import Scheduler
from lensmount_server.scheduling import MAX_BATCH, Terms
from lensmount_server.turnstile import Turnstile
from opened import pixels_of
from serving import CLOSE, PATIENCE_S, Kit, Version, eventually

LIVE = (Want("defect"),)
T = TypeVar("T")


class Gated(Engine):
    """Runs a batch when a test lets it; a frame's logits tell its number, `fails` what goes wrong with it."""

    def __init__(self, kit: Kit, fails: Callable[[int], Exception | None] = lambda _: None) -> None:
        super().__init__(kit.backbone)
        self.fails = fails
        self.batches: list[list[int]] = []
        self._may_run = threading.Semaphore(0)

    def let(self, batches: int = 1) -> None:
        """Let so many batches run."""
        self._may_run.release(batches)

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        numbers = [int(pixels_of(job.picture)[0, 0, 0]) for job in jobs]
        self.batches.append(numbers)
        assert self._may_run.acquire(timeout=PATIENCE_S)
        for error in filter(None, map(self.fails, numbers)):
            raise error
        return [
            [told(number, len(adapter.manifest.labels)) for adapter in job.adapters]
            for number, job in zip(numbers, jobs, strict=True)
        ]


def told(number: int, labels: int) -> Tensor:
    return torch.tensor([number / 10, *[0.0] * (labels - 1)])


def frame(number: int) -> Frame:
    return Frame(Still(np.full((32, 32, 3), number, np.uint8)))


def number_of(answers: list[Answer]) -> int:
    """The number of the frame that these answers are for."""
    first, second, *_ = answers[0].scores
    return round(10 * float(np.log(first / second)))


@dataclass(frozen=True, eq=False)
class Desk:
    """A scheduler with a gated engine, and `defect` live."""

    engine: Gated
    mounts: Mounts
    scheduler: Scheduler

    def ask(self, number: int, wants: Sequence[Want] = LIVE) -> asyncio.Task[list[Answer]]:
        return asyncio.create_task(self.scheduler.answer(frame(number), wants))

    async def queue(self, *numbers: int) -> list[asyncio.Task[list[Answer]]]:
        """Ask for frames one after the other, each once the one before waits in the queue."""
        asked = []
        for number in numbers:
            waiting = len(self.scheduler._waiting)
            asked.append(self.ask(number))
            await eventually(lambda before=waiting: len(self.scheduler._waiting) > before, "the frame waits")  # type: ignore[misc]
        return asked

    async def busy(self, number: int = 0) -> asyncio.Task[list[Answer]]:
        """Keep the engine busy with a frame of its own."""
        asked = self.ask(number)
        await eventually(lambda: self.engine.batches, "the engine has the first frame")
        return asked


@pytest.fixture
async def desk(kit: Kit) -> AsyncIterator[Desk]:
    engine, mounts = Gated(kit), Mounts()
    mounts.point("live", mounted(kit.defect[0], 1))
    scheduler = Scheduler(engine, mounts)
    yield Desk(engine, mounts, scheduler)
    engine.let(1000)
    await scheduler.close()


def mounted(version: Version, number: int) -> Mounted:
    adapter = version.adapter
    return Mounted(VersionId(adapter.manifest.task, number, adapter.content_hash), adapter)


async def test_a_lone_frame_runs_at_once_and_alone(desk: Desk) -> None:
    asked = await desk.busy(7)
    assert desk.engine.batches == [[7]]
    desk.engine.let()
    (answer,) = await asked
    assert number_of([answer]) == 7
    assert answer.adapter.version == 1
    assert sum(answer.scores) == pytest.approx(1)
    assert answer.decision == (answer.labels[0],)
    assert answer.inference_ms > 0


async def test_what_waits_while_the_engine_is_busy_becomes_one_batch_oldest_first(desk: Desk) -> None:
    first = await desk.busy()
    rest = await desk.queue(5, 3, 9)
    desk.engine.let(2)
    answers = await asyncio.gather(first, *rest)
    assert desk.engine.batches == [[0], [5, 3, 9]]
    assert [number_of(each) for each in answers] == [0, 5, 3, 9]
    assert answers[1][0].queue_ms > 0


async def test_no_batch_is_larger_than_the_limit(desk: Desk) -> None:
    first = await desk.busy()
    numbers = range(1, 2 * MAX_BATCH + 4)
    rest = await desk.queue(*numbers)
    desk.engine.let(4)
    await asyncio.gather(first, *rest)
    assert desk.engine.batches[1:] == [[*range(1, 9)], [*range(9, 17)], [17, 18, 19]]


async def test_answers_come_in_the_order_of_the_wants(kit: Kit) -> None:
    mounts = Mounts()
    for version in (kit.defect[0], kit.surface, kit.grade):
        mounts.point("live", mounted(version, 1))
    scheduler = Scheduler(Engine(kit.backbone), mounts)
    shot = pictures(1)[0]
    answers = await scheduler.answer(Frame(Still(shot)), [Want("grade"), Want("surface"), Want("defect")])
    await scheduler.close()
    for answer, version in zip(answers, (kit.grade, kit.surface, kit.defect[0]), strict=True):
        assert answer.scores == pytest.approx(version.scores(shot), abs=CLOSE)
        assert answer.labels == tuple(version.adapter.manifest.labels)


async def test_an_unknown_task_is_refused_before_it_waits(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="no such task"):
        await desk.scheduler.answer(frame(1), [Want("weather")])
    assert not desk.engine.batches


class Forgetful(Mounts):
    """Forgets tasks between the call and the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten: set[str] = set()

    def resolve(self, want: Want) -> Mounted:
        if want.task in self.forgotten:
            raise NotFoundError("gone", field="tasks", value=want.task)
        return super().resolve(want)


async def test_a_task_that_goes_while_its_frame_waits_fails_that_frame_only(kit: Kit) -> None:
    engine, mounts = Gated(kit), Forgetful()
    mounts.point("live", mounted(kit.defect[0], 1))
    mounts.point("live", mounted(kit.surface, 1))
    desk = Desk(engine, mounts, Scheduler(engine, mounts))
    first = await desk.busy()
    (before,) = await desk.queue(1)
    gone = desk.ask(2, [Want("defect"), Want("surface")])
    await eventually(lambda: len(desk.scheduler._waiting) == 2, "the frame waits")
    (after,) = await desk.queue(3)
    mounts.forgotten.add("surface")
    engine.let(2)
    with pytest.raises(NotFoundError, match="gone"):
        await gone
    assert [number_of(each) for each in await asyncio.gather(first, before, after)] == [0, 1, 3]
    assert engine.batches == [[0], [1, 3]]
    await desk.scheduler.close()


async def test_a_failing_frame_fails_its_own_caller_only(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.engine.fails = lambda number: RuntimeError("secret detail") if number == 13 else None
    first = await desk.busy()
    before, culprit, after = await desk.queue(1, 13, 2)
    desk.engine.let(10)
    with caplog.at_level(logging.ERROR), pytest.raises(ServerError) as caught:
        await culprit
    assert [number_of(each) for each in await asyncio.gather(first, before, after)] == [0, 1, 2]
    assert desk.engine.batches == [[0], [1, 13, 2], [1], [13], [2]]
    assert "secret detail" not in str(caught.value)
    assert "secret detail" in caplog.text
    (number,) = re.findall(r"[0-9a-f]{12}", str(caught.value))
    assert number in caplog.text
    assert number_of(await desk.ask(4)) == 4


async def test_an_error_of_ours_arrives_as_it_is(desk: Desk) -> None:
    error = InvalidInputError("too narrow", field="picture")
    desk.engine.fails = lambda number: error if number == 13 else None
    desk.engine.let(10)
    with pytest.raises(InvalidInputError, match="too narrow"):
        await desk.ask(13)


class Miscounting(Engine):
    """A defect: one answer too few."""

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        return super().run(jobs)[1:]


async def test_a_defect_of_the_engine_does_not_end_the_scheduler(kit: Kit) -> None:
    mounts = Mounts()
    mounts.point("live", mounted(kit.defect[0], 1))
    scheduler = Scheduler(Miscounting(kit.backbone), mounts)
    for _ in range(2):
        with pytest.raises(ServerError):
            await asyncio.wait_for(scheduler.answer(frame(1), LIVE), PATIENCE_S)
    await scheduler.close()


async def test_close_finishes_the_batch_under_way_and_refuses_the_rest(desk: Desk) -> None:
    first = await desk.busy(4)
    waiting = await desk.queue(5, 6)
    closing = asyncio.create_task(desk.scheduler.close())
    for refused in waiting:
        with pytest.raises(UnavailableError, match="stopping"):
            await asyncio.wait_for(refused, PATIENCE_S)
    assert not closing.done()
    desk.engine.let()
    assert number_of(await asyncio.wait_for(first, PATIENCE_S)) == 4
    await closing
    assert desk.engine.batches == [[4]]
    with pytest.raises(UnavailableError, match="stopping"):
        await desk.scheduler.answer(frame(1), LIVE)


async def test_the_queue_is_bounded(desk: Desk) -> None:
    desk.scheduler._queue.limit = 3
    first = await desk.busy()
    rest = await desk.queue(1, 2, 3)
    with pytest.raises(TooLargeError, match="wait for the engine"):
        await desk.ask(4)
    desk.engine.let(2)
    await asyncio.gather(first, *rest)
    desk.engine.let()
    assert number_of(await desk.ask(5)) == 5


async def test_a_caller_that_gives_up_disturbs_nobody(desk: Desk) -> None:
    running = await desk.busy(0)
    before, given_up, after = await desk.queue(1, 2, 3)
    given_up.cancel()
    running.cancel()
    await asyncio.wait([given_up, running])
    desk.engine.let(2)
    assert [number_of(each) for each in await asyncio.gather(before, after)] == [1, 3]
    assert desk.engine.batches == [[0], [1, 3]]


async def test_a_version_is_looked_up_when_the_batch_is_formed(desk: Desk, kit: Kit) -> None:
    first = await desk.busy()
    (waiting,) = await desk.queue(1)
    desk.mounts.point("live", mounted(kit.defect[1], 2))
    desk.engine.let(2)
    assert [each[0].adapter.version for each in await asyncio.gather(first, waiting)] == [1, 2]


async def test_logits_of_an_adapter_that_is_not_live(kit: Kit) -> None:
    scheduler = Scheduler(Engine(kit.backbone), Mounts())
    shot = pictures(1)[0]
    served = await scheduler.logits(shot, kit.defect[2].adapter)
    await scheduler.close()
    torch.testing.assert_close(served, kit.defect[2].logits(shot), atol=CLOSE, rtol=0)


# Deadlines: the queue's own logic is tested in `scheduling`; here, that its word reaches whoever asked.


def old_frame(number: int, age_s: float) -> Frame:
    return Frame(Still(pixels_of(frame(number).picture)), capture_time_ns=time.time_ns() - int(age_s * 1e9))


class Slow:
    """Costs that promise nothing within a minute."""

    def batch_s(self, frames: int, rows: int) -> float:
        del rows
        return 60.0 * frames

    def observe(self, frames: int, rows: int, seconds: float) -> None:
        """A table does not care."""


async def test_a_frame_that_is_too_old_is_refused_before_anything_is_done(desk: Desk) -> None:
    with pytest.raises(DeadlineError, match="in time") as caught:
        await desk.scheduler.answer(old_frame(1, age_s=5), LIVE, Terms(deadline_s=4.9))
    assert caught.value.field == "deadline"
    assert caught.value.fix
    assert not desk.engine.batches
    desk.engine.let()
    assert await desk.scheduler.answer(old_frame(1, age_s=5), LIVE, Terms(deadline_s=60))


async def test_a_frame_without_a_capture_time_has_its_whole_time(desk: Desk) -> None:
    desk.engine.let()
    assert await desk.scheduler.answer(frame(1), LIVE, Terms(deadline_s=60))


async def test_a_frame_for_which_there_is_no_time_is_refused_while_the_engine_is_busy(kit: Kit) -> None:
    engine, mounts = Gated(kit), Mounts()
    mounts.point("live", mounted(kit.defect[0], 1))
    scheduler = Scheduler(engine, mounts, Slow())
    desk = Desk(engine, mounts, scheduler)
    first = await desk.busy()
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(scheduler.answer(frame(1), LIVE, Terms(deadline_s=100)), PATIENCE_S)
    engine.let()
    assert number_of(await first) == 0
    await scheduler.close()


async def test_an_answer_that_comes_too_late_is_a_refusal(desk: Desk) -> None:
    asked = asyncio.create_task(desk.scheduler.answer(frame(1), LIVE, Terms(deadline_s=0.5)))
    await eventually(lambda: desk.engine.batches, "the engine has the frame")
    await asyncio.sleep(0.6)
    desk.engine.let()
    with pytest.raises(DeadlineError):
        await asked


async def test_a_waiting_frame_is_handed_back_when_its_time_has_passed(desk: Desk) -> None:
    first = await desk.busy()
    waiting = asyncio.create_task(desk.scheduler.answer(frame(1), LIVE, Terms(deadline_s=0.5)))
    await eventually(lambda: desk.scheduler._waiting, "the frame waits")
    await asyncio.sleep(0.6)
    desk.engine.let()
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(waiting, PATIENCE_S)
    await first
    assert desk.engine.batches == [[0]]


async def test_a_higher_priority_overtakes(desk: Desk) -> None:
    first = await desk.busy()
    rest = await desk.queue(*range(1, MAX_BATCH + 1))
    urgent = asyncio.create_task(desk.scheduler.answer(frame(20), LIVE, Terms("urgent", priority=1)))
    await eventually(lambda: len(desk.scheduler._waiting) == MAX_BATCH + 1, "the frame waits")
    desk.engine.let(3)
    await asyncio.gather(first, urgent, *rest)
    assert desk.engine.batches[1][0] == 20
    assert desk.engine.batches[2] == [MAX_BATCH]


async def test_a_full_queue_takes_from_whoever_has_most(desk: Desk) -> None:
    desk.scheduler._queue.limit = 3
    first = await desk.busy()
    rest = await desk.queue(1, 2, 3)
    modest = asyncio.create_task(desk.scheduler.answer(frame(4), LIVE, Terms("modest")))
    with pytest.raises(TooLargeError, match="wait for the engine"):
        await asyncio.wait_for(rest[2], PATIENCE_S)
    desk.engine.let(2)
    await asyncio.gather(first, modest, *rest[:2])


# Promotions in the middle of traffic: nothing is lost, nothing is answered by the wrong weights.

SHOTS = pictures(4, seed=9)
ALIASES = ("live", "canary")


class Witness(Engine):
    """Notes which adapters each batch ran."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit.backbone)
        self.batches: list[list[tuple[str, ...]]] = []

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        self.batches.append([tuple(adapter.content_hash for adapter in job.adapters) for job in jobs])
        return super().run(jobs)


class Lying(Mounts):
    """A guard's negative control: now and then it names one version and gives the weights of another."""

    def __init__(self, other: Version) -> None:
        super().__init__()
        self.other = other
        self._asked = 0

    def resolve(self, want: Want) -> Mounted:
        self._asked += 1
        honest = super().resolve(want)
        return Mounted(honest.id, self.other.adapter) if self._asked % 40 == 0 else honest


class Wavering(Mounts):
    """The other control: an alias that changes inside a batch."""

    def __init__(self, versions: Sequence[Mounted]) -> None:
        super().__init__()
        self._turns = versions
        self._asked = 0

    def resolve(self, want: Want) -> Mounted:
        self._asked += 1
        return super().resolve(want) if want.task != "defect" else self._turns[self._asked % len(self._turns)]


def oracle_scores(kit: Kit) -> dict[str, list[tuple[float, ...]]]:
    """By content hash: the scores for each of the pictures."""
    return {version.adapter.content_hash: [version.scores(shot) for shot in SHOTS] for version in kit.versions}


async def traffic(
    scheduler: Scheduler, mounts: Mounts, kit: Kit, seed: int, frames: int = 160
) -> list[tuple[int, tuple[Want, ...], list[Answer]]]:
    """Frames from many callers while both aliases are moved again and again: (picture, wants, answers)."""
    draw = random.Random(seed)
    versions = [mounted(version, number) for number, version in enumerate(kit.defect, 1)]
    surface = mounted(kit.surface, 1)
    for pinned in versions:
        mounts.pin(pinned)
    for alias in ALIASES:
        mounts.point(alias, versions[0])
    mounts.point("live", surface)
    done = []

    async def call(number: int) -> None:
        choices = [
            Want("defect"),
            Want("defect", "canary"),
            Want("surface"),
            *(Want("defect", version=v) for v in (1, 2, 3)),
        ]
        wants = tuple(draw.sample(choices, draw.randint(1, 3)))
        await asyncio.sleep(draw.random() * 0.1)
        done.append((number, wants, await scheduler.answer(Frame(Still(SHOTS[number])), wants)))

    async def promote() -> None:
        while True:
            mounts.point(draw.choice(ALIASES), draw.choice(versions))
            await asyncio.sleep(draw.random() * 0.004)

    promoting = asyncio.create_task(promote())
    await asyncio.gather(*(call(draw.randrange(len(SHOTS))) for _ in range(frames)))
    promoting.cancel()
    await asyncio.wait([promoting])
    return done


def check_answers(done: list[tuple[int, tuple[Want, ...], list[Answer]]], kit: Kit) -> None:
    """Every answer is of the task and version asked, and its scores are those of the version that it names."""
    oracle = oracle_scores(kit)
    for number, wants, answers in done:
        for want, answer in zip(wants, answers, strict=True):
            assert answer.adapter.task == want.task
            assert want.version in (0, answer.adapter.version)
            assert answer.scores == pytest.approx(oracle[answer.adapter.content_hash][number], abs=CLOSE)


def check_batches(batches: list[list[tuple[str, ...]]], kit: Kit, versions: int) -> None:
    """At most so many versions of `defect` in one batch."""
    hashes = {version.adapter.content_hash for version in kit.defect}
    for batch in batches:
        assert len({each for job in batch for each in job} & hashes) <= versions


@pytest.mark.parametrize("seed", range(3))
async def test_promotions_in_the_middle_of_traffic_lose_and_misroute_nothing(kit: Kit, seed: int) -> None:
    engine, mounts = Witness(kit), Mounts()
    scheduler = Scheduler(engine, mounts)
    done = await asyncio.wait_for(traffic(scheduler, mounts, kit, seed), PATIENCE_S)
    await scheduler.close()
    assert len(done) == 160
    check_answers(done, kit)
    answered = [
        answer.adapter.version
        for _, wants, answers in done
        for want, answer in zip(wants, answers, strict=True)
        if want == Want("defect")
    ]
    assert len(set(answered)) > 1
    assert max(len(batch) for batch in engine.batches) > 1


async def test_the_oracles_tell_versions_and_pictures_apart(kit: Kit) -> None:
    scores = [one for version in kit.defect for one in (version.scores(shot) for shot in SHOTS)]
    distances = [
        max(abs(a - b) for a, b in zip(one, other, strict=True)) for i, one in enumerate(scores) for other in scores[:i]
    ]
    assert min(distances) > 10 * CLOSE


async def test_weights_under_a_wrong_name_would_be_noticed(kit: Kit) -> None:
    mounts = Lying(kit.defect[2])
    scheduler = Scheduler(Witness(kit), mounts)
    done = await asyncio.wait_for(traffic(scheduler, mounts, kit, 0), PATIENCE_S)
    await scheduler.close()
    with pytest.raises(AssertionError):
        check_answers(done, kit)


async def follow_alias(kit: Kit, mounts: Mounts, frames: int = 80) -> Witness:
    """Many frames that follow `live` while it moves, until each version has answered."""
    engine = Witness(kit)
    scheduler = Scheduler(engine, mounts)
    versions = [mounted(version, number) for number, version in enumerate(kit.defect, 1)]
    mounts.point("live", versions[0])

    async def promote() -> None:
        for turn in count():
            mounts.point("live", versions[turn % 3])
            await asyncio.sleep(0)

    promoting = asyncio.create_task(promote())
    while len({job for batch in engine.batches for job in batch}) < 3:
        await asyncio.gather(*(scheduler.answer(Frame(Still(SHOTS[0])), LIVE) for _ in range(frames)))
    promoting.cancel()
    await scheduler.close()
    return engine


async def test_no_batch_sees_two_versions_of_an_alias(kit: Kit) -> None:
    engine = await asyncio.wait_for(follow_alias(kit, Mounts()), PATIENCE_S)
    assert max(len(batch) for batch in engine.batches) > 1
    check_batches(engine.batches, kit, versions=1)


async def test_an_alias_that_changes_inside_a_batch_would_be_noticed(kit: Kit) -> None:
    versions = [mounted(version, number) for number, version in enumerate(kit.defect, 1)]
    engine = await asyncio.wait_for(follow_alias(kit, Wavering(versions)), PATIENCE_S)
    with pytest.raises(AssertionError):
        check_batches(engine.batches, kit, versions=1)


class Measured(ReferenceExecutor):
    """An executor whose batches were measured before it started: a second for one frame, little more for four."""

    batch_ms = {1: 1000.0, 2: 1100.0, 4: 1300.0, 8: 2600.0}  # noqa: RUF012 - as its base has it


@asynccontextmanager
async def measured(kit: Kit, mounts: Mounts) -> AsyncIterator[Desk]:
    """A desk whose engine has such a table."""
    engine = Gated(kit)
    engine.executor = Measured(kit.backbone)
    scheduler = Scheduler(engine, mounts)
    yield Desk(engine, mounts, scheduler)
    engine.let(1000)
    await scheduler.close()


async def test_what_was_measured_counts_from_the_first_frame_on(desk: Desk, kit: Kit) -> None:
    soon = Terms("camera", deadline_s=0.5)
    async with measured(kit, desk.mounts) as slow:
        await slow.busy()
        with pytest.raises(DeadlineError):
            await slow.scheduler.answer(frame(1), LIVE, soon)
    await desk.busy()
    waiting = asyncio.create_task(desk.scheduler.answer(frame(1), LIVE, soon))
    await eventually(lambda: desk.scheduler._waiting, "nothing is known of this engine: the frame may try")
    waiting.cancel()


async def test_batches_are_as_large_as_was_measured_to_be_worth_it(desk: Desk, kit: Kit) -> None:
    async with measured(kit, desk.mounts) as other:
        first = await other.busy()
        rest = await other.queue(*range(1, 7))
        other.engine.let(3)
        await asyncio.gather(first, *rest)
        assert other.engine.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_registrations_picture_waits_until_nobody_needs_the_engine(
    desk: Desk, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", PATIENCE_S)
    desk.engine.let()
    await desk.ask(0)
    first = await desk.busy(1)
    golden = asyncio.create_task(desk.scheduler.logits(pixels_of(frame(9).picture), kit.defect[1].adapter))
    await eventually(lambda: desk.scheduler._patient, "the picture waits")
    rest = await desk.queue(2)
    desk.engine.let()
    await asyncio.gather(first)
    assert not golden.done()
    desk.engine.let(2)
    await asyncio.gather(*rest, golden)
    assert desk.engine.batches == [[0], [1], [2], [9]]


async def test_a_registrations_picture_does_not_wait_where_no_frames_come(
    desk: Desk, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", PATIENCE_S)
    golden = asyncio.create_task(desk.scheduler.logits(pixels_of(frame(9).picture), kit.defect[1].adapter))
    desk.engine.let()
    assert (await golden)[0] == pytest.approx(0.9)
    assert desk.engine.batches == [[9]]


async def test_a_registrations_next_picture_does_not_wait_for_the_one_before(
    desk: Desk, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", PATIENCE_S)
    desk.engine.let(2)
    for number in (8, 9):
        await desk.scheduler.logits(pixels_of(frame(number).picture), kit.defect[1].adapter)
    assert desk.engine.batches == [[8], [9]]


async def test_a_registrations_picture_does_not_wait_for_ever(
    desk: Desk, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.engine.let(2)
    await desk.ask(0)
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    desk.scheduler._last_batch_s = time.perf_counter()
    await desk.scheduler.logits(pixels_of(frame(9).picture), kit.defect[1].adapter)
    assert desk.engine.batches == [[0], [9]]


@dataclass(frozen=True, eq=False)
class Unready(Still):
    """A picture that is made ready when a test says so."""

    may: asyncio.Event

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        await self.may.wait()
        return await super().prepared(wanted)


class Pushing(Turnstile):
    """Lets everybody through at once."""

    async def through(self, source: str, making: Awaitable[T]) -> T:
        del source
        return await making


@pytest.mark.parametrize("in_order", [True, False])
async def test_a_frame_that_is_ready_early_does_not_overtake_one_of_its_source(desk: Desk, in_order: bool) -> None:
    if not in_order:
        desk.scheduler._turnstile = Pushing()
    may = asyncio.Event()
    desk.engine.let(10)

    def ask(picture: Still, source: str) -> asyncio.Task[list[Answer]]:
        return asyncio.create_task(desk.scheduler.answer(Frame(picture), LIVE, Terms(source)))

    late = ask(Unready(pixels_of(frame(1).picture), may), "line-1")
    early = ask(Still(pixels_of(frame(2).picture)), "line-1")
    (other,) = await ask(Still(pixels_of(frame(3).picture)), "line-2")
    assert number_of([other]) == 3  # nobody else waits
    if not in_order:
        await early
    may.set()
    await asyncio.gather(late, early)
    order = [number for batch in desk.engine.batches for number in batch if number != 3]
    assert order == ([1, 2] if in_order else [2, 1])
    assert not desk.scheduler._turnstile._last


async def test_a_frame_that_fails_or_is_given_up_holds_up_nobody(desk: Desk) -> None:
    desk.engine.let(10)
    terms = Terms("line-1")
    given_up = asyncio.create_task(
        desk.scheduler.answer(Frame(Unready(pixels_of(frame(1).picture), asyncio.Event())), LIVE, terms)
    )
    await asyncio.sleep(0)
    narrow = asyncio.create_task(desk.scheduler.answer(Frame(Still(np.zeros((1, 60_000, 3), np.uint8))), LIVE, terms))
    last = asyncio.create_task(desk.scheduler.answer(frame(3), LIVE, terms))
    await asyncio.sleep(0.05)
    assert not last.done()
    given_up.cancel()
    assert number_of(await last) == 3
    await asyncio.gather(given_up, narrow, return_exceptions=True)
    assert given_up.cancelled()


async def test_who_comes_after_one_that_was_given_up_still_waits_for_those_before_it(desk: Desk) -> None:
    desk.engine.let(10)
    terms, may = Terms("line-1"), asyncio.Event()

    def ask(picture: Still) -> asyncio.Task[list[Answer]]:
        return asyncio.create_task(desk.scheduler.answer(Frame(picture), LIVE, terms))

    first = ask(Unready(pixels_of(frame(1).picture), may))
    given_up = ask(Unready(pixels_of(frame(2).picture), asyncio.Event()))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    last = ask(Still(pixels_of(frame(3).picture)))
    await asyncio.sleep(0.05)
    assert not last.done()
    may.set()
    assert [number_of(await each) for each in (first, last)] == [1, 3]
    assert [number for batch in desk.engine.batches for number in batch] == [1, 3]
    assert not desk.scheduler._turnstile._last
