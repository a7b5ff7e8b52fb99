"""The hot set against a model of it that is too simple to be wrong."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lensmount_server.hotset import HotLimits, HotSet, Mounted
from residents import FLOAT, mounted, version_id

LIMITS = HotLimits(count=4, size_bytes=12 * FLOAT)
NUMBERS = st.integers(1, 8)


def size_of(number: int) -> int:
    """Versions have sizes of their own; one is beyond the limit by itself."""
    return 20 if number == 8 else 1 + number % 4


class HotSetMachine(RuleBasedStateMachine):
    """Any order of calls, on the set and on a list of (number, uses) beside it."""

    make: Any = HotSet

    def __init__(self) -> None:
        super().__init__()
        self.evicted: list[Mounted] = []
        self.hot: HotSet = self.make(LIMITS)
        self.hot.on_evicted = self.evicted.append
        self.order: list[int] = []
        self.leases: Counter[int] = Counter()
        self.pins: Counter[int] = Counter()
        self.left = 0

    @rule(number=NUMBERS)
    def put(self, number: int) -> None:
        self.hot.put(mounted(number, size_of(number)))
        self._use(number)
        self._trim()

    @rule(number=NUMBERS, by_number=st.booleans())
    def find(self, number: int, by_number: bool) -> None:
        version = version_id(number)
        found = self.hot.numbered((version.task, number)) if by_number else self.hot.find(version.content_hash)
        assert (found is not None) == (number in self.order)
        if found is not None:
            assert found.id == version
            assert found.adapter.content_hash == version.content_hash
            self._use(number)

    @rule(number=NUMBERS)
    def lease(self, number: int) -> None:
        self.hot.lease(version_id(number).content_hash)
        self.leases[number] += 1

    @precondition(lambda self: +self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(+self.leases)))
        self.leases[number] -= 1
        self.hot.release(version_id(number).content_hash)
        self._trim()

    @rule(number=NUMBERS, times=st.integers(1, 2))
    def pin(self, number: int, times: int) -> None:
        self.hot.pin(("defect", number), times)
        self.pins[number] += times

    @precondition(lambda self: +self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(+self.pins)))
        self.pins[number] -= 1
        self.hot.unpin(("defect", number))
        self._trim()

    @invariant()
    def what_is_hot_is_what_the_model_says(self) -> None:
        assert {number for number in range(1, 9) if version_id(number).content_hash in self.hot} == set(self.order)
        assert len(self.hot) == len(self.order)
        assert self.hot.size_bytes == FLOAT * sum(map(size_of, self.order))

    @invariant()
    def it_is_within_its_limits_unless_all_of_it_is_held(self) -> None:
        within = len(self.hot) <= LIMITS.count and self.hot.size_bytes <= LIMITS.size_bytes
        assert within or all(self.leases[number] or self.pins[number] for number in self.order)

    @invariant()
    def what_is_held_has_never_left(self) -> None:
        for each in self.evicted[self.left :]:
            assert not self.leases[each.id.version]
            assert not self.pins[each.id.version]
        self.left = len(self.evicted)
        assert self.hot.evictions == self.left
        assert self.hot.leased == {version_id(number).content_hash for number in +self.leases}
        assert self.hot.pinned == {("defect", number) for number in +self.pins}

    def _use(self, number: int) -> None:
        if number in self.order:
            self.order.remove(number)
        self.order.append(number)

    def _trim(self) -> None:
        free = [number for number in self.order if not self.leases[number] and not self.pins[number]]
        while free and (len(self.order) > LIMITS.count or FLOAT * sum(map(size_of, self.order)) > LIMITS.size_bytes):
            self.order.remove(free.pop(0))


TestHotSet = HotSetMachine.TestCase
TestHotSet.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class Heartless(HotSet):
    """A control: drops what is leased too."""

    def _victim(self) -> Mounted | None:
        return next(iter(self._hot.values()), None)


class Hoarding(HotSet):
    """A control: never looks at its bytes."""

    def _over(self) -> bool:
        return len(self._hot) > self.limits.count


class Forgetful(HotSet):
    """A control: does not notice that something is used."""

    def find(self, content_hash: str) -> Mounted | None:
        return self._hot.get(content_hash)


@pytest.mark.parametrize("wrong", [Heartless, Hoarding, Forgetful])
def test_a_set_that_is_wrong_would_be_noticed(wrong: type[HotSet]) -> None:
    class Machine(HotSetMachine):
        make = partial(wrong)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=300, deadline=None, database=None, report_multiple_bugs=False)
        )


def test_one_that_is_put_twice_stays_the_one_that_it_was() -> None:
    hot, first = HotSet(), mounted(1)
    hot.put(first)
    hot.put(mounted(1))
    assert hot.find("defect-1") is first
    assert hot.size_bytes == FLOAT
