"""A virtual engine behind a scheduling queue: hours of traffic in seconds, and the account of every ticket."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from lensmount_server.scheduling import Batch, LearnedCosts, Refusal, Ticket

Cost = Callable[[int, int, float], float]


class Discipline(Protocol):
    """A queue, ours or a wrong one."""

    def __len__(self) -> int: ...
    def admit(self, ticket: Ticket, now_s: float) -> Refusal | None: ...
    def take(self, now_s: float) -> Batch: ...
    def finish(self, batch: Batch, now_s: float) -> tuple[Refusal, ...]: ...


@dataclass(frozen=True)
class Camera:
    """Asks `fps` times a second, its clock off by up to `jitter` of a period, for answers within `deadline_s`."""

    name: str
    fps: float
    deadline_s: float | None = None
    priority: int = 0
    rows: int = 1
    jitter: float = 0.3

    def tickets(self, seconds: float, seed: int, start_s: float = 0.0) -> Iterator[Ticket]:
        draw = random.Random(f"{self.name}/{seed}")
        phase = draw.random()
        for number in range(round(seconds * self.fps)):
            at_s = start_s + (number + phase + self.jitter * draw.random()) / self.fps
            deadline_s = None if self.deadline_s is None else at_s + self.deadline_s
            yield Ticket(self.name, self.rows, self.priority, deadline_s, at_s)


@dataclass
class Fates:
    """What became of one source's tickets."""

    submitted: int = 0
    answered: int = 0
    answered_late: int = 0
    refused_at_once: int = 0
    handed_back: int = 0
    too_late: int = 0
    wait_s: float = 0.0
    longest_s: float = 0.0

    @property
    def refused(self) -> int:
        return self.refused_at_once + self.handed_back


@dataclass
class Run:
    """The account of a simulation."""

    fates: dict[str, Fates] = field(default_factory=lambda: defaultdict(Fates))
    open: set[Ticket] = field(default_factory=set)
    longest_queue: int = 0
    batches: int = 0
    frames: int = 0
    engine_s: float = 0.0
    ended_s: float = 0.0

    @property
    def all(self) -> Fates:
        total = Fates()
        for each in self.fates.values():
            for name, value in vars(each).items():
                setattr(total, name, getattr(total, name) + value)
        return total

    def submit(self, ticket: Ticket) -> None:
        self.fates[ticket.source].submitted += 1
        self.open.add(ticket)

    def refuse(self, refusal: Refusal, now_s: float, *, at_once: bool = False) -> None:
        ticket = refusal.ticket
        self.open.remove(ticket)
        fate = self.fates[ticket.source]
        fate.refused_at_once += at_once
        fate.handed_back += not at_once
        fate.too_late += ticket.deadline_s is not None and ticket.arrived_s <= ticket.deadline_s < now_s

    def answer(self, ticket: Ticket, started_s: float, now_s: float) -> None:
        self.open.remove(ticket)
        fate = self.fates[ticket.source]
        fate.answered += 1
        fate.answered_late += ticket.deadline_s is not None and now_s > ticket.deadline_s
        fate.wait_s += started_s - ticket.arrived_s
        fate.longest_s = max(fate.longest_s, started_s - ticket.arrived_s)


def steady(fixed_s: float, frame_s: float, row_s: float = 0.0) -> Cost:
    """An engine whose batches always cost the same."""
    return lambda frames, rows, _: fixed_s + frame_s * frames + row_s * rows


def noisy(cost: Cost, seed: int, spread: float = 0.15) -> Cost:
    """The same, off by so much either way."""
    draw = random.Random(seed)
    return lambda frames, rows, now_s: cost(frames, rows, now_s) * (1 + spread * (2 * draw.random() - 1))


def together(cameras: Iterable[Camera], seconds: float, seed: int = 0) -> Iterator[Ticket]:
    """The tickets of all cameras, in the order of their arrival."""
    return heapq.merge(*(camera.tickets(seconds, seed) for camera in cameras), key=lambda ticket: ticket.arrived_s)


def simulate(queue: Discipline, tickets: Iterable[Ticket], cost: Cost, costs: LearnedCosts) -> Run:
    """Run the traffic through, until nothing waits any more."""
    run = Run()
    now_s = 0.0
    arriving = iter(tickets)
    following = next(arriving, None)
    running: tuple[Batch, float, float] | None = None
    while following is not None or running is not None or len(queue):
        if running is None and len(queue):
            batch = queue.take(now_s)
            for refusal in batch.refused:
                run.refuse(refusal, now_s)
            if batch.tickets:
                seconds = cost(len(batch.tickets), sum(ticket.rows for ticket in batch.tickets), now_s)
                running = batch, now_s, now_s + seconds
            continue
        if running is not None and (following is None or running[2] <= following.arrived_s):
            batch, started_s, now_s = running
            running = None
            _finish(run, queue, batch, started_s, now_s, costs)
        elif following is not None:
            now_s = max(now_s, following.arrived_s)
            _arrive(run, queue, following, now_s)
            following = next(arriving, None)
    run.ended_s = now_s
    return run


def _arrive(run: Run, queue: Discipline, ticket: Ticket, now_s: float) -> None:
    run.submit(ticket)
    refusal = queue.admit(ticket, now_s)
    if refusal is not None:
        run.refuse(refusal, now_s, at_once=refusal.ticket is ticket)
    run.longest_queue = max(run.longest_queue, len(queue))


def _finish(run: Run, queue: Discipline, batch: Batch, started_s: float, now_s: float, costs: LearnedCosts) -> None:
    late = queue.finish(batch, now_s)
    costs.observe(len(batch.tickets), sum(ticket.rows for ticket in batch.tickets), now_s - started_s)
    for refusal in late:
        run.refuse(refusal, now_s)
    refused = {refusal.ticket for refusal in late}
    for ticket in batch.tickets:
        if ticket not in refused:
            run.answer(ticket, started_s, now_s)
    run.batches += 1
    run.frames += len(batch.tickets)
    run.engine_s += now_s - started_s


def fairness(shares: Iterable[float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything (Jain, Chiu, Hawe, DEC TR-301, 1984)."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))
