from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_server.frames import Frame, Still
from lensmount_server.video.account import Account, Drops
from lensmount_server.video.mailbox import DropPolicy, Mailbox, Parcel

PIXELS = np.zeros((1, 1, 3), np.uint8)
EVERY_FRAME, NEWEST = DropPolicy.EVERY_FRAME, DropPolicy.NEWEST


def frame(index: int) -> Frame:
    return Frame(Still(PIXELS), index)


async def drain(mailbox: Mailbox, pause_every: int = 0) -> list[Parcel]:
    parcels = []
    while (parcel := await mailbox.get()) is not None:
        parcels.append(parcel)
        if pause_every and len(parcels) % pause_every == 0:
            await asyncio.sleep(0.001)
    return parcels


def check_account(mailbox: Mailbox, put: int, got: list[Parcel]) -> None:
    """What must hold when the mailbox is empty: each frame came out or was counted, and the gaps say where."""
    state = mailbox.account.state()
    assert state.decoded == put
    assert len(got) + state.dropped.frames == put
    position = -1
    for parcel in got:
        assert parcel.frame.index - position - 1 == parcel.lost.superseded
        position = parcel.frame.index


def run(mailbox: Mailbox, count: int, pause_every: int) -> list[Parcel]:
    """A producer thread puts `count` frames and closes; a coroutine reads."""

    def produce() -> None:
        for index in range(count):
            assert mailbox.put(frame(index))
        mailbox.close()

    async def consume() -> list[Parcel]:
        thread = threading.Thread(target=produce)
        thread.start()
        parcels = await drain(mailbox, pause_every)
        thread.join()
        return parcels

    return asyncio.run(consume())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(DropPolicy), st.integers(1, 5), st.integers(0, 200), st.integers(0, 20))
def test_every_frame_comes_out_once_or_is_counted_once(
    policy: DropPolicy, size: int, count: int, pause_every: int
) -> None:
    mailbox = Mailbox(policy, size)
    got = run(mailbox, count, pause_every)
    check_account(mailbox, count, got)
    if policy is EVERY_FRAME:
        assert [parcel.frame.index for parcel in got] == list(range(count))
    if count:
        assert got[-1].frame.index == count - 1  # the newest is never lost


class ForgetfulMailbox(Mailbox):
    """Loses a waiting frame without a word."""

    def put(self, frame: Frame) -> bool:
        if frame.index == 5 and self._frames:
            self._frames.clear()
        return super().put(frame)


def test_the_check_notices_a_mailbox_that_forgets() -> None:
    mailbox = ForgetfulMailbox(EVERY_FRAME, 100)
    for index in range(10):
        mailbox.put(frame(index))
    mailbox.close()
    got = asyncio.run(drain(mailbox))
    with pytest.raises(AssertionError):
        check_account(mailbox, 10, got)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["put", "get", "lose"]), max_size=60), st.integers(1, 4))
def test_newest_behaves_as_its_model(steps: list[str], size: int) -> None:
    mailbox = Mailbox(NEWEST, size)

    async def follow() -> None:
        waiting: list[int] = []
        lost, index = Drops(), 0
        for step in steps:
            if step == "put":
                lost += Drops(superseded=int(len(waiting) == size))
                waiting = [*waiting, index][-size:]
                mailbox.put(frame(index))
                index += 1
            elif step == "lose":
                lost += Drops(decode=1)
                mailbox.lose(Drops(decode=1))
            elif waiting:
                parcel = await mailbox.get()
                assert parcel is not None
                assert (parcel.frame.index, parcel.lost) == (waiting.pop(0), lost)
                lost = Drops()
            assert len(mailbox) == len(waiting)

    asyncio.run(follow())


def test_every_frame_holds_the_producer_back() -> None:
    mailbox = Mailbox(EVERY_FRAME, 2)
    put: list[int] = []

    def produce() -> None:
        for index in range(4):
            mailbox.put(frame(index))
            put.append(index)

    thread = threading.Thread(target=produce)
    thread.start()
    deadline = time.monotonic() + 30
    while len(put) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.join(0.1)
    assert thread.is_alive()
    assert put == [0, 1]

    async def take_four() -> list[int]:
        return [parcel.frame.index for _ in range(4) if (parcel := await mailbox.get())]

    assert asyncio.run(take_four()) == [0, 1, 2, 3]
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("end", ["close", "discard"])
def test_closing_frees_a_producer_that_waits(end: str) -> None:
    mailbox = Mailbox(EVERY_FRAME, 1)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.extend(mailbox.put(frame(index)) for index in range(2)))
    thread.start()
    time.sleep(0.05)
    getattr(mailbox, end)()
    thread.join(30)
    assert answers == [True, False]
    assert mailbox.account.state().decoded == 1


async def test_a_coroutine_can_deliver_too() -> None:
    mailbox = Mailbox(EVERY_FRAME, 2)

    async def produce() -> list[bool]:
        accepted = [await mailbox.offer(frame(index)) for index in range(20)]
        mailbox.close()
        return [*accepted, await mailbox.offer(frame(20))]

    accepted, parcels = await asyncio.wait_for(asyncio.gather(produce(), drain(mailbox, 3)), 30)
    assert accepted == [True] * 20 + [False]
    check_account(mailbox, 20, parcels)


async def test_closing_frees_a_coroutine_that_waits() -> None:
    mailbox = Mailbox(EVERY_FRAME, 1)
    await mailbox.offer(frame(0))
    waiting = asyncio.create_task(mailbox.offer(frame(1)))
    await asyncio.sleep(0)
    mailbox.close()
    assert await asyncio.wait_for(waiting, 30) is False


async def test_what_waits_at_the_close_can_still_be_got() -> None:
    mailbox = Mailbox(EVERY_FRAME, 3)
    for index in range(3):
        mailbox.put(frame(index))
    mailbox.close()
    assert [parcel.frame.index for parcel in await drain(mailbox)] == [0, 1, 2]
    assert await mailbox.get() is None


async def test_what_is_discarded_is_counted_as_failed() -> None:
    mailbox = Mailbox(EVERY_FRAME, 3)
    for index in range(3):
        mailbox.put(frame(index))
    mailbox.discard()
    assert await mailbox.get() is None
    assert mailbox.account.state().dropped == Drops(failed=3)


async def test_a_get_that_is_cancelled_takes_nothing() -> None:
    mailbox = Mailbox(NEWEST)
    waiting = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    waiting.cancel()
    mailbox.put(frame(7))
    await asyncio.gather(waiting, return_exceptions=True)
    parcel = await mailbox.get()
    assert parcel is not None
    assert parcel.frame.index == 7


def test_drops_add_up_by_reason() -> None:
    total = Drops(superseded=1, decode=2) + Drops(superseded=3, late=4, failed=5, subscriber=6)
    assert total == Drops(superseded=4, late=4, decode=2, subscriber=6, failed=5)
    assert total.frames == 4 + 4 + 5
    assert not Drops()
    assert total


def test_an_account_adds_up_from_many_threads() -> None:
    account = Account()

    def work() -> None:
        for _ in range(500):
            account.add(decoded=1)
            account.add(answered=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = account.state()
    assert (state.decoded, state.answered, state.in_flight) == (2000, 2000, 0)
