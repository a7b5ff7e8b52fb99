"""Hours of virtual traffic through the real queue; the same checks must catch queues that are wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import pytest

from lensmount_server.scheduling import MAX_BATCH, MAX_WAITING, Batch, LearnedCosts, Queue, Reason, Refusal, Ticket
from lensmount_server.scheduling.queue import SHARE
from simulation import Camera, Cost, Discipline, Run, fairness, noisy, simulate, steady, together

# A batch of 8 takes 52 ms: at most 153 frames a second.
COST = steady(fixed_s=0.004, frame_s=0.006)
CAPACITY = MAX_BATCH / COST(MAX_BATCH, MAX_BATCH, 0.0)

Make = Callable[[LearnedCosts], Discipline]


def play(cameras: Iterable[Camera], seconds: float, cost: Cost = COST, make: Make = Queue, seed: int = 0) -> Run:
    costs = LearnedCosts()
    return simulate(make(costs), together(cameras, seconds, seed), cost, costs)


def check_account(run: Run) -> None:
    """Every ticket was answered or refused, once; none is left."""
    total = run.all
    assert not run.open
    assert total.submitted == total.answered + total.refused


def check_deadlines(run: Run) -> None:
    """No answer after its deadline, and hardly a refusal after it."""
    assert run.all.answered_late == 0
    assert run.all.too_late <= 0.002 * run.all.submitted


def check_bound(run: Run, limit: int = MAX_WAITING) -> None:
    """Never more than so many tickets wait."""
    assert run.longest_queue <= limit


def check_equal(run: Run) -> None:
    """Sources that ask for the same get the same."""
    assert fairness(fate.answered for fate in run.fates.values()) > 0.995


def check_modest(run: Run, names: Iterable[str]) -> None:
    """Sources that ask for less than their share get all of it."""
    for name in names:
        assert run.fates[name].answered >= 0.99 * run.fates[name].submitted, name


def check_at_once(run: Run) -> None:
    """What is refused is refused at the door, nearly always."""
    assert run.all.refused_at_once > 0.9 * run.all.refused


def check_waits(run: Run, name: str, most_s: float) -> None:
    """Nothing of this source waits longer."""
    assert run.fates[name].longest_s < most_s


def check_useful(run: Run, goodput: float) -> None:
    """An overloaded engine still does so much of what it can, in time."""
    assert run.all.answered >= goodput * CAPACITY * run.ended_s


def check_all(run: Run) -> None:
    check_account(run)
    check_deadlines(run)
    check_bound(run)


def test_what_can_be_kept_is_kept() -> None:
    cameras = [Camera(f"line-{number}", 25, 0.15) for number in range(4)]
    run = play(cameras, 300, noisy(COST, 1))
    check_all(run)
    assert run.all.answered == run.all.submitted == 30_000


def test_a_lone_frame_never_waits_for_company() -> None:
    run = play([Camera("line-1", 10, jitter=0.0)], 600)
    assert run.batches == run.all.answered == 6000
    assert run.all.longest_s == 0.0


@pytest.mark.parametrize("deadline_s", [0.15, 0.4, None])
def test_equal_cameras_share_an_overloaded_engine_equally(deadline_s: float | None) -> None:
    run = play([Camera(f"line-{number}", 25, deadline_s) for number in range(12)], 120, noisy(COST, 2))
    check_all(run)
    check_equal(run)
    check_useful(run, 0.9)


def test_most_of_what_can_not_be_kept_is_refused_at_once() -> None:
    run = play([Camera(f"line-{number}", 25, 0.15) for number in range(12)], 120, noisy(COST, 3))
    assert run.all.refused > 0.4 * run.all.submitted
    check_at_once(run)


def test_cameras_with_different_deadlines_share_equally_too() -> None:
    cameras = [Camera(f"line-{number}", 25, 0.05 + 0.05 * (number % 4)) for number in range(12)]
    run = play(cameras, 120, noisy(COST, 4))
    check_all(run)
    check_equal(run)


FLOODS = {
    "without deadlines": Camera("flood", 1000),
    "with the earliest deadlines": Camera("flood", 1000, 0.05),
    "of many rows": Camera("flood", 500, 0.1, rows=8),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("deadline_s", [0.3, None])
def test_a_flood_does_not_push_others_out(name: str, deadline_s: float | None) -> None:
    modest = [Camera(f"line-{number}", 10, deadline_s) for number in range(4)]
    run = play([FLOODS[name], *modest], 60, noisy(COST, 5))
    check_all(run)
    check_modest(run, (camera.name for camera in modest))
    assert run.fates["flood"].answered > 0


def test_a_higher_priority_goes_first_and_a_lower_one_gets_its_share() -> None:
    high = [Camera(f"high-{number}", 100, 0.2, priority=5) for number in range(4)]
    low = [Camera(f"low-{number}", 20, priority=number - 4) for number in range(3)]
    run = play([*high, *low], 200, noisy(COST, 6))
    check_account(run)
    check_deadlines(run)
    shares = [run.fates[camera.name].answered / run.frames for camera in low]
    assert all(share > 0.95 / SHARE / len(low) for share in shares)
    assert sum(shares) < 2 / SHARE
    check_equal_among(run, high)


def check_equal_among(run: Run, cameras: Iterable[Camera]) -> None:
    assert fairness(run.fates[camera.name].answered for camera in cameras) > 0.999


def test_a_higher_priority_loses_nothing_to_a_lower_flood() -> None:
    high = [Camera(f"high-{number}", 10, 0.2, priority=1) for number in range(4)]
    run = play([Camera("flood", 1000), *high], 60, noisy(COST, 7))
    check_all(run)
    check_modest(run, (camera.name for camera in high))


def test_an_engine_that_becomes_slower_and_recovers() -> None:
    def cost(frames: int, rows: int, now_s: float) -> float:
        return COST(frames, rows, now_s) * (5 if 200 < now_s < 400 else 1)

    cameras = [Camera(f"line-{number}", 10, 0.3) for number in range(4)]
    run = play(cameras, 600, noisy(cost, 8))
    check_account(run)
    assert run.all.answered_late == 0
    assert run.all.answered > 0.6 * run.all.submitted


def test_a_hiccup_does_not_close_the_door() -> None:
    def cost(frames: int, rows: int, now_s: float) -> float:
        return 10.0 if 100 < now_s < 101 else COST(frames, rows, now_s)

    run = play([Camera("line-1", 20, 0.1)], 600, cost)
    check_account(run)
    assert run.all.refused < 20 * 15


def test_the_first_batch_may_be_slow() -> None:
    warm = iter([10.0])
    run = play([Camera("line-1", 20, 0.1)], 900, lambda frames, rows, now_s: next(warm, COST(frames, rows, now_s)))
    check_account(run)
    assert run.all.refused < 20 * 120


def wild(seconds: float, seed: int) -> Iterator[Ticket]:
    """Traffic of all kinds: steady cameras, bursts, floods, one-off callers; all priorities; some deadlines absurd."""
    draw = random.Random(seed)
    now_s, number = 0.0, 0
    while now_s < seconds:
        source = draw.choice(["burst", f"line-{draw.randrange(12)}", f"caller-{number}"])
        deadline_s = draw.choice([None, None, 0.001, 0.05, 0.2, 0.2, 1.0, 60.0, -1.0])
        for _ in range(draw.randrange(1, 40) if source == "burst" else 1):
            number += 1
            now_s += 0.0002
            due_s = None if deadline_s is None else now_s + deadline_s
            yield Ticket(source, draw.randint(1, 8), draw.randint(-10, 10), due_s, now_s)
        now_s += draw.expovariate(20)


@pytest.mark.parametrize("seed", range(3))
def test_wild_traffic_is_accounted_for(seed: int) -> None:
    costs = LearnedCosts()
    run = simulate(Queue(costs, limit=200), wild(300, seed), noisy(steady(0.004, 0.004, 0.002), seed), costs)
    check_account(run)
    check_deadlines(run)
    check_bound(run, 200)
    assert run.all.answered > 1000


def test_a_full_queue_takes_from_the_longest() -> None:
    queue = Queue(LearnedCosts(), limit=10)
    flood = [Ticket("flood", 1, 9) for _ in range(10)]
    assert not any(queue.admit(ticket, 0.0) for ticket in flood)
    again = Ticket("flood", 1, 9)
    refusals = [queue.admit(again, 0.0), *(queue.admit(Ticket("line-1", 1, -9), 0.0) for _ in range(6))]
    assert [refusal and refusal.ticket for refusal in refusals] == [
        again, flood[9], flood[8], flood[7], flood[6], flood[5], refusals[6] and refusals[6].ticket
    ]  # fmt: skip
    assert refusals[6] is not None
    assert refusals[6].ticket.source == "line-1"
    assert {refusal.reason for refusal in refusals if refusal} == {Reason.FULL}
    assert len(queue) == 10


def check_factory(seconds: float) -> Run:
    """112 requests a second of three kinds, of which the engine can do most; for so long."""
    lines = [Camera(f"line-{number}", 15, 0.2) for number in range(4)]
    cameras = [
        *lines,
        *(Camera(f"yard-{number}", 5, 0.5, priority=-1, rows=2) for number in range(4)),
        *(Camera(f"archive-{number}", 8, priority=-5) for number in range(4)),
    ]
    run = play(cameras, seconds, noisy(steady(0.004, 0.009), 9))
    check_all(run)
    check_modest(run, (camera.name for camera in lines))
    assert all(fate.answered > 0.05 * fate.submitted for fate in run.fates.values())
    return run


def test_a_quarter_of_an_hour_of_a_factory() -> None:
    assert check_factory(900).all.refused > 0


@pytest.mark.slow
def test_a_million_requests() -> None:
    assert check_factory(9000).all.submitted == 1_008_000


# Negative controls: each of these queues is wrong in one way, and a check says so.


class Naive:
    """A list; `order` says which of those that wait goes next. Knows nothing of deadlines, sources, bounds."""

    def __init__(self, order: Callable[[Ticket], object]) -> None:
        self._order = order
        self._waiting: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, ticket: Ticket, now_s: float) -> Refusal | None:
        del now_s
        self._waiting.append(ticket)
        return None

    def take(self, now_s: float) -> Batch:
        self._waiting.sort(key=self._order)  # type: ignore[arg-type]
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return Batch(tuple(batch), (), now_s)

    def finish(self, batch: Batch, now_s: float) -> tuple[Refusal, ...]:
        del batch, now_s
        return ()


def oldest(_: LearnedCosts) -> Naive:
    return Naive(lambda ticket: ticket.arrived_s)


def newest(_: LearnedCosts) -> Naive:
    return Naive(lambda ticket: -ticket.arrived_s)


def strict(_: LearnedCosts) -> Naive:
    return Naive(lambda ticket: (-ticket.priority, ticket.arrived_s))


class Bounded(Naive):
    """Refuses whoever comes when it is full, as a plain queue does."""

    def __init__(self, _: LearnedCosts) -> None:
        super().__init__(lambda ticket: ticket.arrived_s)

    def admit(self, ticket: Ticket, now_s: float) -> Refusal | None:
        if len(self) >= MAX_WAITING:
            return Refusal(ticket, Reason.FULL, now_s, now_s, len(self))
        return super().admit(ticket, now_s)


class Forgetful(Queue):
    """Loses a ticket now and then."""

    def admit(self, ticket: Ticket, now_s: float) -> Refusal | None:
        return None if round(ticket.arrived_s * 1e6) % 97 == 0 else super().admit(ticket, now_s)


class Blind(Queue):
    """Does not look whether a batch was in time."""

    def finish(self, batch: Batch, now_s: float) -> tuple[Refusal, ...]:
        super().finish(batch, now_s)
        return ()


class Doorless(Queue):
    """Lets everybody in, and hands back what has become too late."""

    def late(self, ticket: Ticket, now_s: float) -> Refusal | None:
        del ticket, now_s
        return None


OVERLOAD = [Camera(f"line-{number}", 25, 0.15) for number in range(12)]


def test_a_queue_that_ignores_deadlines_is_caught() -> None:
    run = play(OVERLOAD, 30, make=oldest)
    with pytest.raises(AssertionError):
        check_deadlines(run)
    with pytest.raises(AssertionError):
        check_deadlines(play(OVERLOAD, 300, noisy(COST, 1, spread=0.5), make=Blind))


def test_a_queue_without_a_bound_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_bound(play([Camera("flood", 1000)], 10, make=oldest))


def test_a_queue_without_a_door_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_at_once(play(OVERLOAD, 30, make=Doorless))


def test_a_queue_that_takes_the_newest_is_caught() -> None:
    cameras = [Camera("flood", 200), Camera("line-1", 10)]
    check_waits(play(cameras, 30), "line-1", 0.5)
    with pytest.raises(AssertionError):
        check_waits(play(cameras, 30, make=newest), "line-1", 0.5)


def test_a_queue_in_which_a_flood_wins_is_caught() -> None:
    modest = [Camera(f"line-{number}", 10) for number in range(4)]
    run = play([FLOODS["without deadlines"], *modest], 60, make=Bounded)
    with pytest.raises(AssertionError):
        check_modest(run, (camera.name for camera in modest))


def test_a_queue_that_starves_is_caught() -> None:
    cameras = [Camera("high", 200, priority=1), Camera("low", 5)]
    check_waits(play(cameras, 30), "low", 2)
    with pytest.raises(AssertionError):
        check_waits(play(cameras, 30, make=strict), "low", 2)


def test_a_queue_that_loses_tickets_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_account(play(OVERLOAD, 30, make=Forgetful))


def test_unequal_shares_are_caught() -> None:
    with pytest.raises(AssertionError):
        check_equal(play([*OVERLOAD, Camera("loud", 150, 0.15)], 60, make=oldest))


def test_an_engine_that_is_idle_too_often_is_caught() -> None:
    class Hesitant(Queue):
        def __init__(self, costs: LearnedCosts) -> None:
            super().__init__(costs, max_batch=1)

    with pytest.raises(AssertionError):
        check_useful(play(OVERLOAD, 60, make=Hesitant), 0.9)


def test_the_tickets_of_a_simulation_come_in_order() -> None:
    times = [ticket.arrived_s for ticket in chain(together(OVERLOAD, 10), wild(10, 0))]
    split = len(list(together(OVERLOAD, 10)))
    assert times[:split] == sorted(times[:split])
    assert times[split:] == sorted(times[split:])
