"""The table against a plain model of what it should do, over random histories."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lensmount.errors import ConflictError, NotFoundError, UnavailableError
from lensmount_server.engine.cuda.slot_table import Placement, SlotTable

COUNT = 3
hashes = st.sampled_from("abcdefg")


class Histories(RuleBasedStateMachine):
    """`order` has who is here, the one used longest ago first; `held` the users of each; `pinned` who must stay."""

    make = SlotTable

    def __init__(self) -> None:
        super().__init__()
        self.table = self.make(COUNT)
        self.order: list[str] = []
        self.held: dict[str, int] = {}
        self.pinned: set[str] = set()

    def movable(self) -> list[str]:
        return [name for name in self.order if not self.held.get(name) and name not in self.pinned]

    @rule(name=hashes)
    def acquire(self, name: str) -> None:
        here, full = name in self.order, len(self.order) == COUNT
        if not here and full and not self.movable():
            with pytest.raises(UnavailableError, match="pinned or in use"):
                self.table.acquire(name)
            return
        before = self.table.residents
        evicted = self.movable()[0] if full and not here else None
        place = self.table.acquire(name)
        assert place.fresh == (not here)
        if here:
            assert place.slot == before[name]
            self.order.remove(name)
        elif evicted:
            assert place.slot == before[evicted]
            self.order.remove(evicted)
        self.order.append(name)
        self.held[name] = self.held.get(name, 0) + 1

    @rule(name=hashes)
    def release(self, name: str) -> None:
        if self.held.get(name):
            self.table.release(name)
            self.held[name] -= 1
        else:
            with pytest.raises(ConflictError if name in self.order else NotFoundError):
                self.table.release(name)

    @rule(name=hashes, keep=st.booleans())
    def pin(self, name: str, *, keep: bool) -> None:
        if name not in self.order:
            with pytest.raises(NotFoundError):
                self.table.pin(name, keep=keep)
            return
        self.table.pin(name, keep=keep)
        (self.pinned.add if keep else self.pinned.discard)(name)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.order))
        if self.held.get(name):
            with pytest.raises(ConflictError, match="in flight"):
                self.table.drop(name)
            return
        slot = self.table.residents[name]
        assert self.table.drop(name) == slot
        self.order.remove(name)
        self.pinned.discard(name)

    @invariant()
    def a_slot_has_one_adapter(self) -> None:
        slots = list(self.table.residents.values())
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < COUNT for slot in slots)

    @invariant()
    def who_is_held_or_pinned_is_here(self) -> None:
        assert list(self.table.residents) == self.order
        assert {name for name, users in self.held.items() if users} <= set(self.order)
        assert self.table.pinned == self.pinned
        assert all(self.table.users(name) == self.held.get(name, 0) for name in "abcdefg")


class Careless(SlotTable):
    """Evicts whoever was used longest ago, held or not."""

    def _take(self, content_hash: str) -> int:  # noqa: ARG002 # as it is called
        return self._free.pop() if self._free else self._residents.pop(next(iter(self._residents))).slot


class Forgetful(SlotTable):
    """Gives the slot that it gave last time."""

    def _take(self, content_hash: str) -> int:
        super()._take(content_hash)
        return 0


def test_no_history_breaks_the_table() -> None:
    run_state_machine_as_test(Histories)


@pytest.mark.parametrize("fault", [Careless, Forgetful])
def test_a_table_with_a_fault_is_caught(fault: type[SlotTable]) -> None:
    faulty = type("Faulty", (Histories,), {"make": fault})
    one_is_enough = settings(report_multiple_bugs=False, database=None)
    with pytest.raises((AssertionError, pytest.fail.Exception, NotFoundError)):
        run_state_machine_as_test(faulty, settings=one_is_enough)


def test_who_was_used_longest_ago_goes_first() -> None:
    table = SlotTable(2)
    first, second = table.acquire("a"), table.acquire("b")
    for name in ("a", "b", "a"):
        table.acquire(name)
        table.release(name)
    table.release("a")
    table.release("b")
    assert table.acquire("c") == Placement(second.slot, fresh=True)
    assert table.residents == {"a": first.slot, "c": second.slot}
