"""Work for one thread: in order, with its errors, to the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lensmount_server.handover import Handover


@contextmanager
def handed(gate: threading.Event, seen: list[int]) -> Iterator[Handover[int, int]]:
    """Doubles a number once the gate is open; refuses -1."""

    def work(number: int) -> int:
        gate.wait(30)
        seen.append(number)
        if number == -1:
            raise ValueError(number)
        return 2 * number

    handover = Handover(work, "test")
    try:
        yield handover
    finally:
        gate.set()
        handover.close()


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


async def test_pieces_are_worked_on_in_their_order(gate: threading.Event) -> None:
    seen: list[int] = []
    with handed(gate, seen) as handover:
        waiting = [handover.run(number) for number in range(50)]
        gate.set()
        assert await asyncio.gather(*waiting) == [2 * number for number in range(50)]
    assert seen == [*range(50)]


async def test_an_error_is_its_own_pieces_alone(gate: threading.Event) -> None:
    gate.set()
    with handed(gate, []) as handover:
        before, bad, after = (handover.run(number) for number in (1, -1, 2))
        assert await before == 2
        with pytest.raises(ValueError, match="-1"):
            await bad
        assert await after == 4


async def test_nobody_waits_for_a_piece_any_more(gate: threading.Event) -> None:
    seen: list[int] = []
    with handed(gate, seen) as handover:
        left, stays = handover.run(1), handover.run(2)
        left.cancel()
        gate.set()
        assert await stays == 4
    assert seen == [1, 2]


async def test_close_waits_for_what_was_handed_over(gate: threading.Event) -> None:
    seen: list[int] = []
    with handed(gate, seen) as handover:
        piece = handover.run(5)
        closing = asyncio.create_task(asyncio.to_thread(handover.close))
        await asyncio.sleep(0.05)
        assert not closing.done()
        gate.set()
        await closing
        assert await piece == 10


def test_a_loop_that_is_gone_stops_nothing(gate: threading.Event) -> None:
    seen: list[int] = []

    def work(number: int) -> None:
        gate.wait(30)
        seen.append(number)

    async def leave() -> Handover[int, None]:
        handover = Handover(work, "test")
        handover.run(1).cancel()
        return handover

    left = asyncio.run(leave())
    gate.set()
    left.close()
    assert seen == [1]
