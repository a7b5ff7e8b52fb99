"""The scheduler on the event loop: frames in, answers out, around the pure queue of `scheduling`.

Batching is opportunistic: whenever the engine is free it takes what waits, in the queue's order;
no artificial wait at low load, large batches at high load. The adapters of a frame are looked
up when its batch is formed, so an answer always comes from the version that was live at
that moment, whole.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from torch import Tensor

from lensmount.errors import LensmountError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.outcome import decide
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.defects import known
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.frames import Answer, Frame, Picture, Ran, Ready, Still, VersionId, Want
from lensmount_server.handover import Handover
from lensmount_server.mounts import Leases, Mounted, Mounts
from lensmount_server.scheduling import (
    ANY_TIME,
    MAX_BATCH,
    MAX_WAITING,
    Batch,
    Costs,
    LearnedCosts,
    Queue,
    Refusal,
    Terms,
    Ticket,
    best_batch,
)
from lensmount_server.scoring import Row, scored
from lensmount_server.turnstile import Turnstile

# How long a registration's picture waits for a moment in which nobody needs the engine.
PATIENCE_S = 0.25
# The source of such pictures in the queue.
REGISTRATION = "registration"

Prepared = Mapping[Preprocessing, Tensor]
Resolve = Callable[[Leases], tuple[Mounted, ...]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one waiting frame: the adapters that ran, their rows, the times in ms, and the batch."""

    mounted: tuple[Mounted, ...]
    rows: list[Row]
    queue_ms: float
    inference_ms: float
    ran: Ran


@dataclass(frozen=True, eq=False)
class Waiting:
    """A frame in the queue; `resolve` is asked for its adapters when its batch is formed, which holds them."""

    picture: Picture
    prepared: Prepared
    resolve: Resolve
    future: asyncio.Future[Outcome]
    until_s: float = inf
    since: float = field(default_factory=time.perf_counter)


Chosen = tuple[Waiting, tuple[Mounted, ...]]


class Scheduler:
    """The queue in front of the one engine thread; lives on one event loop.

    `costs` says what a batch will take, and is told what each took.
    """

    def __init__(self, engine: Engine, mounts: Mounts, costs: Costs | None = None) -> None:
        self.engine = engine
        self._mounts = mounts
        table = engine.batch_ms
        self._costs = costs or LearnedCosts.of_table(table)
        self._queue = Queue(self._costs, limit=MAX_WAITING, max_batch=best_batch(table) if table else MAX_BATCH)
        self._turnstile = Turnstile()
        self._waiting: dict[Ticket, Waiting] = {}
        self._arrived = asyncio.Event()
        self._patient: deque[asyncio.Future[None]] = deque()
        self._last_batch_s = -inf
        self._batches = 0
        self._closed = False
        self._thread = Handover(self._run_engine, "engine")
        self._worker = asyncio.create_task(self._work(), name="scheduler")

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms = ANY_TIME) -> list[Answer]:
        """One answer per want, in order. Frames of one source enter the queue in the order of the calls.

        Raises NotFoundError for a task that is not live, TooLargeError when too many frames wait, and
        DeadlineError for a frame that can not be answered in time: at once, or as soon as that is known.
        """
        mounted = [self._mounts.resolve(want) for want in wants]
        ticket = _ticket(frame, len(wants), terms)
        late = self._queue.late(ticket, time.perf_counter())
        if late is not None:
            raise late.error()
        making = frame.picture.prepared(_preprocessings(mounted))
        prepared = await self._turnstile.through(terms.source, making)
        outcome = await self._run(ticket, frame.picture, prepared, lambda leases: tuple(map(leases.resolve, wants)))
        return [_answer(mounted, row, outcome) for mounted, row in zip(outcome.mounted, outcome.rows, strict=True)]

    async def answer_alike(
        self, pictures: Sequence[Picture], want: Want, terms: Terms, arrived_s: float
    ) -> list[Answer]:
        """One answer per picture, all from one version, which `want` names by its number and the caller holds.

        What is not `Ready` is prepared in the engine's thread. A deadline counts from `arrived_s`. Raises as `answer`
        does; then none of the pictures is answered.
        """
        deadline_s = None if terms.deadline_s is None else arrived_s + terms.deadline_s
        entered: list[tuple[Ticket, Waiting]] = []
        try:
            for picture in pictures:
                ticket = Ticket(terms.source, 1, terms.priority, deadline_s, time.perf_counter())
                prepared = {picture.preprocessing: picture.row} if isinstance(picture, Ready) else {}
                waiting = self._enter(ticket, picture, prepared, lambda leases: (leases.resolve(want),))
                entered.append((ticket, waiting))
            outcomes = [await waiting.future for _, waiting in entered]
        finally:
            for ticket, waiting in entered:
                self._leave(ticket, waiting)
        return [_answer(outcome.mounted[0], outcome.rows[0], outcome) for outcome in outcomes]

    async def logits(self, pixels: Pixels, adapter: Adapter) -> Tensor:
        """The logits (labels,) of one adapter that need not be live, through the same path.

        Where frames come, it goes right behind a batch that leaves nobody waiting: the next frame is furthest then.
        """
        mounted = (Mounted(VersionId(adapter.manifest.task, 0, adapter.content_hash), adapter),)
        picture = Still(pixels)
        prepared = await picture.prepared(_preprocessings(mounted))
        await self._quiet_moment()
        ticket = Ticket(REGISTRATION, 1, arrived_s=time.perf_counter())
        return (await self._run(ticket, picture, prepared, lambda _: mounted)).rows[0].logits

    async def _quiet_moment(self) -> None:
        if self._closed or time.perf_counter() - self._last_batch_s > PATIENCE_S:
            return
        loop = asyncio.get_running_loop()
        patient = loop.create_future()
        self._patient.append(patient)
        loop.call_later(PATIENCE_S, _ring, patient)
        await patient

    def _be_quiet(self) -> None:
        """Let one of those that wait for such a moment go on."""
        while self._patient:
            if _ring(self._patient.popleft()):
                return

    async def close(self) -> None:
        """Finish the batch under way and refuse what still waits."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(UnavailableError("the server is stopping", fix="call again"))
        self._waiting.clear()
        self._arrived.set()
        await self._worker
        await asyncio.to_thread(self._thread.close)

    async def _run(self, ticket: Ticket, picture: Picture, prepared: Prepared, resolve: Resolve) -> Outcome:
        waiting = self._enter(ticket, picture, prepared, resolve)
        try:
            return await waiting.future
        finally:
            self._leave(ticket, waiting)

    def _enter(self, ticket: Ticket, picture: Picture, prepared: Prepared, resolve: Resolve) -> Waiting:
        """Let a frame wait. Raises TooLargeError, DeadlineError, or UnavailableError when the server stops."""
        if self._closed:
            raise UnavailableError("the server is stopping", fix="call again")
        refusal = self._queue.admit(ticket, time.perf_counter())
        if refusal is not None and refusal.ticket is ticket:
            raise refusal.error()
        if refusal is not None:
            self._hand_back(refusal)
        until_s = inf if ticket.deadline_s is None else ticket.deadline_s
        waiting = Waiting(picture, prepared, resolve, asyncio.get_running_loop().create_future(), until_s)
        self._waiting[ticket] = waiting
        self._arrived.set()
        return waiting

    def _leave(self, ticket: Ticket, waiting: Waiting) -> None:
        """A frame's caller has its answer, or has gone and looks at none."""
        if not waiting.future.cancel() and not waiting.future.cancelled():
            waiting.future.exception()
        self._queue.withdraw(ticket)
        self._waiting.pop(ticket, None)

    async def _work(self) -> None:
        while not self._closed:
            await self._arrived.wait()
            batch = self._queue.take(time.perf_counter())
            for refusal in batch.refused:
                self._hand_back(refusal)
            if not len(self._queue):
                self._arrived.clear()
            if batch.tickets:
                await self._run_batch(batch)
                if any(ticket.source != REGISTRATION for ticket in batch.tickets):
                    self._last_batch_s = time.perf_counter()
                if not len(self._queue):
                    self._be_quiet()

    async def _run_batch(self, batch: Batch) -> None:
        with self._mounts.leases() as leases:
            await self._run_leased(batch, leases)

    async def _run_leased(self, batch: Batch, leases: Leases) -> None:
        chosen = self._choose(batch, leases)
        outcomes = await self._compute(list(chosen.values())) if chosen else []
        late = {refusal.ticket: refusal.error() for refusal in self._queue.finish(batch, time.perf_counter())}
        for (ticket, (waiting, _)), outcome in zip(chosen.items(), outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, Outcome) and ticket not in late:
                waiting.future.set_result(outcome)
            else:
                waiting.future.set_exception(outcome if isinstance(outcome, LensmountError) else late[ticket])

    def _choose(self, batch: Batch, leases: Leases) -> dict[Ticket, Chosen]:
        """The frames whose adapters are there; a frame whose are not fails by itself."""
        chosen: dict[Ticket, Chosen] = {}
        for ticket in batch.tickets:
            waiting = self._waiting.pop(ticket, None)
            if waiting is None or waiting.future.done():
                continue
            try:
                chosen[ticket] = waiting, waiting.resolve(leases)
            except Exception as error:  # noqa: BLE001 - whatever it is must reach its caller, not end the loop
                waiting.future.set_exception(known(error))
        return chosen

    def _run_engine(self, jobs: Sequence[Job]) -> list[list[Row]]:
        return scored(jobs, self.engine.run(jobs))

    async def _compute(self, chosen: Sequence[Chosen]) -> list[Outcome | LensmountError]:
        """What the engine says of each; a failed batch runs again one by one, so that only the culprit fails."""
        start = time.perf_counter()
        jobs = [Job(w.picture, tuple(m.adapter for m in mounted), w.prepared, w.until_s) for w, mounted in chosen]
        try:
            ran_rows = await self._thread.run(jobs)
            triples = [(waiting, mounted, rows) for (waiting, mounted), rows in zip(chosen, ran_rows, strict=True)]
        except Exception as error:  # noqa: BLE001 - whatever torch raises must reach the callers, not end the loop
            if len(chosen) == 1:
                return [known(error)]
            return [outcome for alone in chosen for outcome in await self._compute([alone])]
        spent = time.perf_counter() - start
        self._costs.observe(len(jobs), sum(len(job.adapters) for job in jobs), spent)
        self._batches += 1
        ran = Ran(self._batches, len(jobs))
        return [
            Outcome(mounted, rows, (start - waiting.since) * 1e3, spent * 1e3, ran)
            for waiting, mounted, rows in triples
        ]

    def _hand_back(self, refusal: Refusal) -> None:
        waiting = self._waiting.pop(refusal.ticket, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_exception(refusal.error())


def _ring(waiting: asyncio.Future[None]) -> bool:
    """Wake it; False when that has happened before."""
    if waiting.done():
        return False
    waiting.set_result(None)
    return True


def _ticket(frame: Frame, rows: int, terms: Terms) -> Ticket:
    """A frame in the queue's terms; its deadline counts from its capture, where that is known."""
    now_s = time.perf_counter()
    if terms.deadline_s is None:
        return Ticket(terms.source, rows, terms.priority, arrived_s=now_s)
    age_s = max(time.time_ns() - frame.capture_time_ns, 0) / 1e9 if frame.capture_time_ns else 0.0
    return Ticket(terms.source, rows, terms.priority, now_s - age_s + terms.deadline_s, now_s)


def _preprocessings(mounted: Sequence[Mounted]) -> set[Preprocessing]:
    return {each.adapter.manifest.preprocessing for each in mounted}


def _answer(mounted: Mounted, row: Row, outcome: Outcome) -> Answer:
    manifest = mounted.adapter.manifest
    return Answer(
        adapter=mounted.id,
        labels=tuple(manifest.labels),
        scores=row.scores,
        decision=decide(manifest, row.scores),
        queue_ms=outcome.queue_ms,
        inference_ms=outcome.inference_ms,
        ran=outcome.ran,
    )
