"""Pictures that stay in their worker: what is asked for later is of that very frame, in that very form."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from answers import Echo, until
from lensmount.errors import InvalidInputError, UnavailableError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.hub import Hub
from lensmount_server.scheduling import Terms
from lensmount_server.sources.manager import SourceManager
from lensmount_server.sources.model import SourceSpec, SourceState
from lensmount_server.streams import DropPolicy
from lensmount_server.workers.block import LATER_AT, Block, create_memory
from lensmount_server.workers.messages import Handed, Looking, Order, Plan, Prepare, Prepared, Pushing, words
from lensmount_server.workers.pool import WorkerPool
from lensmount_server.workers.remote import HandedPicture, RemoteFeed, Wish
from videos import numbered, write_clip
from zygotes import shared_zygote

HALF = (0.5, 0.5, 0.5)
LIKE = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash", "mean": HALF, "std": HALF}
NOW = Preprocessing(height=64, width=64, **LIKE)
LATER = Preprocessing(height=48, width=96, **LIKE)


class Curious(Echo):
    """Wants frames in a form that nobody foresaw, and looks at which frame it got."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[int] = []
        self.right = 0

    def preprocessings(self, wants: Sequence[Want]) -> tuple[Preprocessing, ...]:
        del wants
        return (NOW,)

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        ready = await frame.picture.prepared([NOW, LATER])
        for form in (NOW, LATER):
            if _nearest(ready[form], form) == frame.index % 10:
                self.right += 1
            else:
                self.wrong.append(frame.index)
        return await super().answer(frame, wants, terms)


def _nearest(picture: torch.Tensor, form: Preprocessing) -> int:
    """Which of ten numbered pictures it shows."""
    shown = [form.prepare(numbered(number)).float() for number in range(10)]
    return int(np.argmin([float((picture.float() - each).abs().mean()) for each in shown]))


def test_the_oracle_tells_pictures_apart() -> None:
    for form in (NOW, LATER):
        assert [_nearest(form.prepare(numbered(number)), form) for number in range(10)] == list(range(10))


async def test_a_form_that_was_not_foreseen_is_of_the_same_frame(tmp_path: Path) -> None:
    path, answerer, pool = write_clip(tmp_path / "a.mp4", 10), Curious(), WorkerPool(shared_zygote())
    manager = SourceManager(answerer, Hub(), pool)
    await manager.add(SourceSpec("a", str(path), (Want("defect"),), DropPolicy.EVERY_FRAME, loop=True))
    await until(lambda: answerer.right >= 120)
    assert answerer.wrong == []
    assert manager.get("a").account.dropped.failed == 0
    assert manager.get("a").state is SourceState.LIVE
    await manager.close()
    await pool.close()


@asynccontextmanager
async def feed() -> AsyncIterator[tuple[RemoteFeed, Block, list[Order]]]:
    """A feed whose worker is this test."""
    memory, orders = create_memory(), list[Order]()
    plan = Plan(Pushing("h264"), Looking((0.0,)), DropPolicy.NEWEST, 1, 2)
    with Block(memory, 0) as worker:
        made = RemoteFeed(0, plan, Block(memory, 0), orders.append)
        yield made, worker, orders
        made.fail(UnavailableError("gone"))
        made.release()
    os.close(memory)


async def asked(orders: list[Order], count: int) -> list[Prepare]:
    """The questions, when there are so many."""
    await until(lambda: sum(isinstance(order, Prepare) for order in orders) >= count)
    return [order for order in orders if isinstance(order, Prepare)]


def picture(of: RemoteFeed, index: int) -> HandedPicture:
    async def later(preprocessing: Preprocessing) -> torch.Tensor:
        return await of._later(index, None, preprocessing)

    return HandedPicture(240, 320, {}, b"", later)


async def test_an_answer_that_comes_too_late_is_nobody_elses() -> None:
    async with feed() as (remote, worker, orders):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(picture(remote, 1).prepared([NOW]), 0.01)
        asking = asyncio.create_task(picture(remote, 2).prepared([NOW]))
        first, second = await asked(orders, 2)
        worker.write(LATER_AT, bytes([1]) * 3 * 64 * 64)
        remote.told(Prepared(0, first.ticket))
        await asyncio.sleep(0.01)
        assert not asking.done()
        worker.write(LATER_AT, bytes([2]) * 3 * 64 * 64)
        remote.told(Prepared(0, second.ticket))
        assert ((await asking)[NOW] == 2).all()


async def test_what_can_not_be_prepared_says_why() -> None:
    async with feed() as (remote, _, orders):
        asking = asyncio.create_task(picture(remote, 1).prepared([NOW]))
        (question,) = await asked(orders, 1)
        remote.told(Prepared(0, question.ticket, words(InvalidInputError("the picture is too narrow"))))
        with pytest.raises(InvalidInputError, match="too narrow"):
            await asking


async def test_a_picture_whose_feed_is_gone_is_gone() -> None:
    async with feed() as (remote, _, orders):
        asking = asyncio.create_task(picture(remote, 1).prepared([NOW]))
        await asked(orders, 1)
        remote.fail(UnavailableError("died"))
        with pytest.raises(UnavailableError):
            await asking
        with pytest.raises(UnavailableError, match="gone"):
            await picture(remote, 2).prepared([NOW])


def handed(index: int, edition: int, due: tuple[int, ...]) -> Handed:
    return Handed(0, index, index, 1, 1.0, 320, 240, 0, 0, False, edition, due, (0,) * 7)


async def test_a_frame_that_was_chosen_for_other_tasks_is_for_all_there_are_now() -> None:
    async with feed() as (remote, _, _orders):
        getting = asyncio.create_task(remote.next(Wish()))
        await asyncio.sleep(0)
        remote.told(handed(1, 0, (0,)))
        getting.cancel()  # as when a stream makes room for its successor
        with pytest.raises(asyncio.CancelledError):
            await getting
        remote.look(Looking((0.0, 5.0, 1.0)))
        parcel = await remote.next(Wish())
        assert parcel is not None
        assert (parcel.frame.index, parcel.due, remote.handed) == (1, (0, 1, 2), 1)
        getting = asyncio.create_task(remote.next(Wish()))
        await asyncio.sleep(0)
        remote.told(handed(2, 1, (2,)))
        parcel = await getting
        assert parcel is not None
        assert parcel.due == (2,)
