from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest

from lensmount_server.engine.turns import Turns
from serving import PATIENCE_S

Turn = Callable[[], AbstractContextManager[None]]


def overlap(one: Turn, other: Turn, rounds: int = 200) -> bool:
    """Whether two threads ever were inside together."""
    inside, seen = [0], []
    meet = threading.Barrier(2)

    def enter(turn: Turn) -> None:
        for _ in range(rounds):
            meet.wait(PATIENCE_S)
            with turn():
                inside[0] += 1
                threading.Event().wait(1e-4)
                seen.append(inside[0])
                inside[0] -= 1

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(enter, turn) for turn in (one, other)]:
            each.result(PATIENCE_S)
    return max(seen) > 1


def test_passes_and_captures_are_never_inside_together() -> None:
    turns = Turns()
    assert not overlap(turns.a_pass, turns.in_between)
    assert not overlap(turns.in_between, turns.in_between)
    assert overlap(nullcontext, turns.in_between), "the check would notice"


def test_a_pass_goes_before_captures_that_waited_longer() -> None:
    turns, order = Turns(), list[str]()

    def take(turn: Turn, name: str) -> None:
        with turn():
            order.append(name)

    with ThreadPoolExecutor(5) as threads:
        with turns.in_between():
            captures = [threads.submit(take, turns.in_between, "capture") for _ in range(4)]
            while len(turns._changed._waiters) < 4:  # type: ignore[attr-defined] # Python keeps them there
                threading.Event().wait(1e-3)
            a_pass = threads.submit(take, turns.a_pass, "pass")
            while not turns._passes_waiting:
                threading.Event().wait(1e-3)
        for each in (*captures, a_pass):
            each.result(PATIENCE_S)
    assert order == ["pass", *["capture"] * 4]


@pytest.mark.parametrize("kind", ["a_pass", "in_between"])
def test_one_that_fails_gives_its_turn_back(kind: str) -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="a defect"), getattr(turns, kind)():
        raise ValueError("a defect")
    with turns.a_pass(), pytest.raises(ValueError, match="another"):
        raise ValueError("another")
    with turns.in_between():
        pass
