from __future__ import annotations

from collections.abc import Iterable
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lensmount.errors import DeadlineError, TooLargeError
from lensmount_server.scheduling import MAX_BATCH, Batch, Queue, Reason, Refusal, Ticket, measure_overhead
from lensmount_server.scheduling.queue import LEAD_FRAMES, PROBE_S, SHARE


class Table:
    """Costs that are known: so many seconds a batch and a frame."""

    def __init__(self, fixed_s: float = 0.0, frame_s: float = 0.01, row_s: float = 0.0) -> None:
        self.fixed_s, self.frame_s, self.row_s = fixed_s, frame_s, row_s

    def batch_s(self, frames: int, rows: int) -> float:
        return self.fixed_s + self.frame_s * frames + self.row_s * rows

    def observe(self, frames: int, rows: int, seconds: float) -> None:
        """A table does not care."""


def queue(*tickets: Ticket, costs: Table | None = None, busy: bool = True) -> Queue:
    """A queue whose engine was used just now, so that nothing is let in as a probe; these wait."""
    made = Queue(costs or Table())
    if busy:
        made.finish(Batch((), (), 0.0), 0.0)
    for ticket in tickets:
        assert made.admit(ticket, 0.0) is None
    return made


def due(deadline_s: float | None, source: str = "line-1", priority: int = 0, rows: int = 1) -> Ticket:
    return Ticket(source, rows, priority, deadline_s)


def drain(waiting: Queue, now_s: float = 0.0) -> list[Ticket]:
    """All that waits, in the order in which it runs, on an engine that takes no time."""
    order: list[Ticket] = []
    while len(waiting):
        batch = waiting.take(now_s)
        order += batch.tickets
        waiting.finish(batch, now_s)
    return order


def names(tickets: Iterable[Ticket]) -> str:
    return "".join(ticket.source for ticket in tickets)


def test_the_earliest_deadline_goes_first_then_the_oldest() -> None:
    a, b, c, d, e = due(None), due(9.0), due(5.0), due(None), due(7.0)
    assert drain(queue(a, b, c, d, e)) == [c, e, b, a, d]


def test_the_earliest_deadline_goes_first_across_sources() -> None:
    tickets = [due(number % 5 + 1.0, f"line-{number}") for number in range(20)]
    assert [ticket.deadline_s for ticket in drain(queue(*tickets))] == sorted(number % 5 + 1.0 for number in range(20))


def test_a_higher_priority_goes_before_an_earlier_deadline() -> None:
    low, high = due(1.0, priority=0), due(None, priority=1)
    assert drain(queue(low, high)) == [high, low]


def test_a_source_that_is_ahead_of_its_share_waits_for_the_others() -> None:
    flood = [due(1.0, "f") for _ in range(60)]
    modest = [due(None, "m") for _ in range(20)]
    order = names(drain(queue(*flood, *modest, costs=Table(frame_s=0.001))))
    assert order.index("m") <= 2 * LEAD_FRAMES + 1
    served = [order[:end].count("f") - order[:end].count("m") for end in range(order.rindex("m"))]
    assert max(served) <= 3 * LEAD_FRAMES + 2


def test_costly_frames_count_for_more() -> None:
    costly = [due(None, "c", rows=8) for _ in range(60)]
    cheap = [due(None, "e") for _ in range(200)]
    order = names(drain(queue(*costly, *cheap, costs=Table(0, 0.001, 0.001))))[:150]
    assert order.count("e") / order.count("c") == pytest.approx(9 / 2, rel=0.3)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_lower_priorities_get_one_frame_in_so_many(levels: int) -> None:
    tickets = [due(None, str(level), priority=level) for level in range(levels) for _ in range(100)]
    order = names(drain(queue(*tickets)))[: 16 * 6]
    top = str(levels - 1)
    assert order.count(top) == 15 * 6
    for start in range(len(order) - SHARE * (levels - 1)):
        window = order[start : start + SHARE * (levels - 1)]
        assert set(window) == set(map(str, range(levels)))


def test_a_batch_is_what_waits_up_to_its_limit() -> None:
    waiting = queue(*(due(None) for _ in range(MAX_BATCH + 3)))
    assert [len(waiting.take(0.0).tickets) for _ in range(3)] == [MAX_BATCH, 3, 0]


def test_a_batch_grows_no_larger_than_its_deadlines_allow() -> None:
    waiting = queue(due(0.035), *(due(None) for _ in range(10)))
    batch = waiting.take(0.0)
    assert len(batch.tickets) == 3
    assert batch.expected_s == pytest.approx(0.03)
    assert batch.refused == ()


def test_what_the_batch_makes_too_late_is_handed_back_with_it() -> None:
    waiting = queue(due(None, priority=1), costs=Table(frame_s=1.0))
    hopeful = due(2.5)
    assert waiting.admit(hopeful, 0.0) is None
    for _ in range(4):
        waiting.admit(due(None, priority=1), 0.0)
    batch = waiting.take(0.0)
    assert hopeful not in batch.tickets
    (refusal,) = batch.refused
    assert (refusal.ticket, refusal.reason, refusal.at_s) == (hopeful, Reason.LATE, 0.0)
    assert refusal.expected_s > 2.5


def test_what_became_too_late_while_it_waited_is_handed_back_and_not_run() -> None:
    waiting = queue(due(1.0), due(None))
    batch = waiting.take(0.995)
    assert [refusal.ticket.deadline_s for refusal in batch.refused] == [1.0]
    assert [ticket.deadline_s for ticket in batch.tickets] == [None]


def test_an_answer_after_its_deadline_is_none() -> None:
    waiting = queue(due(1.0), due(None), due(5.0))
    batch = waiting.take(0.0)
    assert len(batch.tickets) == 3
    late = waiting.finish(batch, 2.0)
    assert [refusal.ticket.deadline_s for refusal in late] == [1.0]


def refused(waiting: Queue, ticket: Ticket, now_s: float = 0.0) -> Refusal:
    refusal = waiting.admit(ticket, now_s)
    assert refusal is not None
    assert refusal.ticket is ticket
    return refusal


def test_what_can_not_be_kept_is_refused_at_the_door() -> None:
    waiting = queue(*(due(None, priority=1) for _ in range(16)))
    assert waiting.admit(due(0.25), 0.0) is None
    assert refused(waiting, due(0.17)).reason is Reason.LATE
    assert refused(waiting, due(0.005)).reason is Reason.LATE
    assert refused(waiting, due(-1.0)).reason is Reason.LATE
    assert waiting.admit(due(0.17, priority=2), 0.0) is None


def test_company_is_reckoned_with() -> None:
    waiting = queue(*(due(None, priority=1) for _ in range(16)))
    refusal = refused(waiting, due(0.2))
    assert refusal.expected_s == pytest.approx(0.16 + 0.08)


def test_the_batch_that_runs_counts() -> None:
    waiting = queue(*(due(None) for _ in range(MAX_BATCH)))
    waiting.take(0.0)
    assert waiting.late(due(0.085), 0.0) is not None
    assert waiting.late(due(0.095), 0.0) is None
    assert waiting.late(due(0.085), 0.07) is not None


def test_others_with_later_deadlines_do_not_count() -> None:
    waiting = queue(*(due(50.0, f"line-{number}") for number in range(20)))
    assert waiting.late(due(0.2), 0.0) is None
    assert waiting.late(due(0.1), 0.0) is None


def test_a_refusal_says_why() -> None:
    error = refused(queue(*(due(None, priority=1) for _ in range(8))), due(0.03)).error()
    assert isinstance(error, DeadlineError)
    assert (error.field, error.value) == ("deadline", "30 ms left, 90 ms needed")
    assert error.fix
    passed = Refusal(due(0.03), Reason.LATE, 0.0304, 0.1204, 1).error()
    assert passed.value == "0 ms left, 90 ms needed"
    full = Queue(Table(), limit=1)
    full.admit(due(None), 0.0)
    error = refused(full, due(None)).error()
    assert isinstance(error, TooLargeError)
    assert error.value == "1"


def test_an_estimate_that_refuses_everything_is_tried_again() -> None:
    waiting = queue(costs=Table(frame_s=5.0))
    refused(waiting, due(0.5 + 0.1), 0.5)
    probe = due(PROBE_S + 0.1)
    assert waiting.admit(probe, PROBE_S) is None
    refused(waiting, due(PROBE_S + 0.1), PROBE_S)
    batch = waiting.take(PROBE_S)
    assert batch.tickets == (probe,)
    assert batch.refused == ()
    refused(waiting, due(PROBE_S + 0.1), PROBE_S)
    assert waiting.finish(batch, PROBE_S + 0.05) == ()
    refused(waiting, due(PROBE_S + 1.0), PROBE_S + 0.5)
    assert waiting.admit(due(2 * PROBE_S + 0.2), 2 * PROBE_S + 0.1) is None


def test_whoever_goes_disturbs_nobody() -> None:
    tickets = [due(deadline_s, source) for deadline_s in (None, 5.0, 6.0) for source in "abc"]
    waiting = queue(*tickets)
    for gone in tickets[::2]:
        waiting.withdraw(gone)
        waiting.withdraw(gone)
    assert len(waiting) == 4
    assert set(drain(waiting)) == set(tickets[1::2])


def test_overhead_is_measured() -> None:
    overhead = measure_overhead(sources=4, rows_per_frame=2, frames=100)
    assert (overhead.sources, overhead.rows_per_frame) == (4, 2)
    assert overhead.frames >= 100
    assert overhead.us_per_frame == pytest.approx(2 * overhead.us_per_row)


def ends_s(ticket: Ticket) -> float:
    return inf if ticket.deadline_s is None else ticket.deadline_s


class Machine(RuleBasedStateMachine):
    """Any order of calls: every ticket comes out once, in time, and the queue never holds more than it may."""

    @initialize(limit=st.integers(1, 20), fixed_s=st.floats(0, 1), frame_s=st.floats(0, 1), row_s=st.floats(0, 1))
    def start(self, limit: int, fixed_s: float, frame_s: float, row_s: float) -> None:
        self.costs = Table(fixed_s, frame_s, row_s)
        self.queue = Queue(self.costs, limit=limit)
        self.now_s = 0.0
        self.waiting: list[Ticket] = []
        self.running: Batch | None = None

    @rule(
        source=st.sampled_from("abcd"),
        rows=st.integers(1, 64),
        priority=st.integers(-10, 10),
        left_s=st.one_of(st.none(), st.floats(-1, 20)),
    )
    def admit(self, source: str, rows: int, priority: int, left_s: float | None) -> None:
        ticket = Ticket(source, rows, priority, None if left_s is None else self.now_s + left_s, self.now_s)
        refusal = self.queue.admit(ticket, self.now_s)
        self.waiting.append(ticket)
        if refusal is not None:
            self.waiting.remove(refusal.ticket)

    @precondition(lambda self: self.running is None)
    @rule()
    def take(self) -> None:
        probe = self.queue._probe
        batch = self.queue.take(self.now_s)
        for refusal in batch.refused:
            self.waiting.remove(refusal.ticket)
        for ticket in batch.tickets:
            self.waiting.remove(ticket)
            assert ticket is probe or batch.expected_s <= ends_s(ticket)
        assert len(batch.tickets) <= MAX_BATCH
        assert batch.tickets or not self.waiting
        self.running = batch if batch.tickets else None

    @precondition(lambda self: self.running is not None)
    @rule(takes_s=st.floats(0, 20))
    def finish(self, takes_s: float) -> None:
        assert self.running is not None
        self.now_s += takes_s
        late = {refusal.ticket for refusal in self.queue.finish(self.running, self.now_s)}
        assert late == {each for each in self.running.tickets if ends_s(each) < self.now_s}
        self.running = None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.queue.withdraw(ticket)
        self.waiting.remove(ticket)

    @rule(passes_s=st.floats(0, 5))
    def wait(self, passes_s: float) -> None:
        self.now_s += passes_s

    @invariant()
    def holds_what_waits(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.waiting) <= self.queue.limit


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(1, 9)), max_size=80))
def test_everything_that_waits_is_served_once(asked: list[tuple[str, int, int]]) -> None:
    tickets = [Ticket(source, rows, priority) for source, priority, rows in asked]
    order = drain(queue(*tickets))
    assert len(order) == len(tickets)
    assert set(order) == set(tickets)
