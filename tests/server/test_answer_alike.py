"""Pictures that are answered together, all or none, by one version."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import torch
from torch import Tensor

from lensmount.errors import DeadlineError, NotFoundError, ServerError, TooLargeError
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Answer, Ready, VersionId, Want
from lensmount_server.mounts import Mounted, Mounts
from lensmount_server.scheduler import Scheduler
from lensmount_server.scheduling import ANY_TIME, Terms
from serving import PATIENCE_S, Kit, eventually

FIRST = Want("defect", version=1)


class Told(Engine):
    """Runs a batch when a test lets it; a row's first pixel is its number, which its logits tell."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit.backbone)
        self.batches: list[list[int]] = []
        self.fails: Callable[[int], bool] = lambda _: False
        self.may_run = threading.Semaphore(0)

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        numbers = [int(row[0, 0, 0]) for job in jobs for row in job.prepared.values()]
        self.batches.append(numbers)
        assert self.may_run.acquire(timeout=PATIENCE_S)
        if any(map(self.fails, numbers)):
            raise RuntimeError("it fails")
        return [[torch.tensor([number / 10, 0.0, 0.0])] for number in numbers]


@pytest.fixture
async def scheduler(kit: Kit) -> AsyncIterator[Scheduler]:
    mounts, adapter = Mounts(), kit.defect[0].adapter
    mounts.point("live", Mounted(VersionId("defect", 1, adapter.content_hash), adapter))
    scheduler = Scheduler(Told(kit), mounts)
    yield scheduler
    engine(scheduler).may_run.release(1000)
    await scheduler.close()


def engine(scheduler: Scheduler) -> Told:
    assert isinstance(scheduler.engine, Told)
    return scheduler.engine


def asked(
    scheduler: Scheduler, kit: Kit, *numbers: int, terms: Terms = ANY_TIME, want: Want = FIRST
) -> asyncio.Task[list[Answer]]:
    seen = kit.backbone.preprocessing
    rows = [Ready(seen, torch.full((3, seen.height, seen.width), number, dtype=torch.uint8)) for number in numbers]
    return asyncio.create_task(scheduler.answer_alike(rows, want, terms, 0.0))


def numbers_of(answers: list[Answer]) -> list[int]:
    return [round(10 * float(torch.tensor(each.scores[0] / each.scores[1]).log())) for each in answers]


async def test_answers_come_in_the_order_of_the_pictures(scheduler: Scheduler, kit: Kit) -> None:
    engine(scheduler).may_run.release(100)
    answers = await asked(scheduler, kit, *range(20))
    assert numbers_of(answers) == list(range(20))
    assert {answer.adapter.version for answer in answers} == {1}
    batches = engine(scheduler).batches
    frames = {answer.ran.number: answer.ran.frames for answer in answers}
    assert frames == {place: len(batch) for place, batch in enumerate(batches, 1)}


async def test_where_one_finds_no_room_none_waits(scheduler: Scheduler, kit: Kit) -> None:
    scheduler._queue.limit = 3
    first = asked(scheduler, kit, 0)
    await eventually(lambda: engine(scheduler).batches, "the engine is busy")
    with pytest.raises(TooLargeError):
        await asked(scheduler, kit, 1, 2, 3, 4)
    assert not scheduler._waiting
    assert len(scheduler._queue) == 0
    engine(scheduler).may_run.release(2)
    assert numbers_of(await first) == [0]
    assert numbers_of(await asked(scheduler, kit, 5)) == [5]
    assert engine(scheduler).batches == [[0], [5]]


@pytest.mark.parametrize("culprit", [1, 3])
async def test_one_that_fails_fails_all_and_nothing_is_left(
    scheduler: Scheduler, kit: Kit, caplog: pytest.LogCaptureFixture, culprit: int
) -> None:
    engine(scheduler).fails = lambda number: number == culprit
    engine(scheduler).may_run.release(100)
    with caplog.at_level(logging.ERROR), pytest.raises(ServerError):
        await asked(scheduler, kit, 1, 2, 3)
    assert not scheduler._waiting
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_who_gives_up_withdraws_all(scheduler: Scheduler, kit: Kit) -> None:
    first = asked(scheduler, kit, 0)
    await eventually(lambda: engine(scheduler).batches, "the engine is busy")
    given_up = asked(scheduler, kit, 1, 2, 3)
    await eventually(lambda: len(scheduler._waiting) == 3, "they wait")
    given_up.cancel()
    await asyncio.wait([given_up])
    assert not scheduler._waiting
    engine(scheduler).may_run.release(5)
    assert numbers_of(await first) == [0]
    assert engine(scheduler).batches == [[0]]


async def test_a_deadline_counts_from_their_arrival(scheduler: Scheduler, kit: Kit) -> None:
    with pytest.raises(DeadlineError):
        await asked(scheduler, kit, 1, terms=Terms("me", deadline_s=1e-9))


async def test_a_version_that_was_deleted_while_they_waited_does_not_answer(scheduler: Scheduler, kit: Kit) -> None:
    first = asked(scheduler, kit, 0)
    await eventually(lambda: engine(scheduler).batches, "the engine is busy")
    waiting = asked(scheduler, kit, 1)
    await eventually(lambda: len(scheduler._waiting) == 1, "it waits")
    scheduler._mounts.delete(VersionId("defect", 1, kit.defect[0].adapter.content_hash))
    engine(scheduler).may_run.release(5)
    with pytest.raises(NotFoundError, match="deleted"):
        await waiting
    assert numbers_of(await first) == [0]


async def test_a_promotion_in_the_middle_changes_none_of_them(scheduler: Scheduler, kit: Kit) -> None:
    together = asked(scheduler, kit, *range(20))
    await eventually(lambda: engine(scheduler).batches, "the first of them run")
    assert len(scheduler._waiting) == 20 - len(engine(scheduler).batches[0]) > 0
    second = kit.defect[1].adapter
    scheduler._mounts.point("live", Mounted(VersionId("defect", 2, second.content_hash), second))
    through_alias = asked(scheduler, kit, 30, want=Want("defect"))
    engine(scheduler).may_run.release(20)
    assert {answer.adapter.version for answer in await together} == {1}
    # What asks through the alias is answered by the other one: the promotion did come between.
    assert {answer.adapter.version for answer in await through_alias} == {2}
