"""The bounded queue in front of the engine: who may wait, who goes next, and for whom it is too late.

*Who may wait.* A ticket whose deadline can not be kept is refused when it comes: by the estimate
of what is before it, of its own batch, and of what became of its source's earlier ones. Where
the queue is full, the source with the most tickets in it gives up its last (longest queue drop;
Suter, Lakshman, Stiliadis, Choudhury, INFOCOM 1998): a source that floods pushes out itself.

*Who goes next.* The highest priority, and within one the discipline of `level`. One frame in
`SHARE` goes to the lower priorities while they wait, in turn: with n lower ones waiting, each
gets at least one frame of any n * SHARE that run. So nobody starves.

*How many.* As many as wait, up to `max_batch` and to the size with which every deadline in the
batch is still kept.

*Too late.* When a batch is formed, tickets that can not be kept any more after it are handed back
at once, and when it has run, those of its own whose deadline has passed. No ticket is
answered after its deadline.

A frame is one ticket, whole: a task that can be left out is left out by whoever asks again
without it. An estimate that is too long would refuse everything and never be corrected; so an idle
engine takes one frame every `PROBE_S` that it would refuse.
"""

from __future__ import annotations

import heapq
from itertools import count
from math import inf

from lensmount_server.scheduling.costs import Costs
from lensmount_server.scheduling.foresight import Foresight
from lensmount_server.scheduling.level import Entry, Level, Turn
from lensmount_server.scheduling.tickets import Batch, Reason, Refusal, Ticket

MAX_BATCH = 8
MAX_WAITING = 1024
SHARE = 16
LEAD_FRAMES = 8
PROBE_S = 1.0

# Below this no charge is meaningful: sources share by frames until the costs are known.
_LEAST_CHARGE_S = 1e-6


class Queue:
    """What waits for one engine. Every time is in seconds on the caller's clock, which never goes back."""

    def __init__(self, costs: Costs, *, limit: int = MAX_WAITING, max_batch: int = MAX_BATCH) -> None:
        self.costs = costs
        self.limit = limit
        self._max_batch = max_batch
        self._levels: dict[int, Level] = {}
        self._entries: dict[Ticket, Entry] = {}
        self._foresight = Foresight()
        self._numbers = count()
        self._latest_starts: list[tuple[float, int, Ticket]] = []
        self._served = 0
        self._since_share = 0
        self._busy_until_s = -inf
        self._probe_from_s = -inf
        self._probe: Ticket | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def late(self, ticket: Ticket, now_s: float) -> Refusal | None:
        """Why this ticket could not be kept if it came now; None when it could, or might as a probe."""
        if ticket.deadline_s is None:
            return None
        expected_s = self._expected_s(ticket, now_s)
        likely_s = self._foresight.likely_s(ticket, now_s, expected_s)
        if likely_s <= ticket.deadline_s or (now_s < ticket.deadline_s and self._may_probe(now_s)):
            return None
        if expected_s <= ticket.deadline_s:
            self._foresight.doubt(ticket)
        return self._refusal(ticket, Reason.LATE, now_s, likely_s)

    def admit(self, ticket: Ticket, now_s: float) -> Refusal | None:
        """Let a ticket wait; the one that is refused for it, if any: itself, or one that it pushes out."""
        refusal = self.late(ticket, now_s)
        if refusal is not None:
            return refusal
        if len(self._entries) >= self.limit:
            refusal = self._make_room(ticket, now_s)
            if refusal.ticket is ticket:
                return refusal
        if self._may_probe(now_s):
            self._probe = ticket
        if ticket.deadline_s is not None:
            self._foresight.note(ticket, now_s, self._expected_s(ticket, now_s))
        self._add(ticket)
        return refusal

    def withdraw(self, ticket: Ticket) -> None:
        """A ticket's caller has gone; nothing happens when it does not wait any more."""
        entry = self._entries.get(ticket)
        if entry is not None:
            self._remove(entry)

    def take(self, now_s: float) -> Batch:
        """What the engine, which is free, runs now."""
        refused = self._sweep(now_s)
        batch: list[Ticket] = []
        rows, tightest, expected_s = 0, inf, now_s
        turns: dict[int, Turn] = {}
        while self._entries and len(batch) < self._max_batch:
            turn = self._turn(turns)
            deadline, _, ticket = turn.head()
            done_s = now_s + self.costs.batch_s(len(batch) + 1, rows + ticket.rows)
            if done_s > tightest:
                break
            if done_s > deadline and ticket is not self._probe:
                self._foresight.learn(ticket, done_s)
                self._take_from(turn, ticket)
                refused.append(self._refusal(ticket, Reason.LATE, now_s, done_s))
                continue
            self._foresight.learn(ticket, done_s)
            self._serve(turn, ticket)
            batch.append(ticket)
            rows += ticket.rows
            tightest, expected_s = min(tightest, max(deadline, done_s)), done_s
        if batch:
            self._busy_until_s, self._probe = expected_s, None
            refused += self._sweep(now_s, expected_s)
        return Batch(tuple(batch), tuple(refused), expected_s)

    def finish(self, batch: Batch, now_s: float) -> tuple[Refusal, ...]:
        """The engine has run a batch and is free; those of its tickets whose deadline has passed."""
        self._busy_until_s, self._probe_from_s = -inf, now_s + PROBE_S
        late = (ticket for ticket in batch.tickets if ticket.deadline_s is not None and now_s > ticket.deadline_s)
        return tuple(self._refusal(ticket, Reason.LATE, now_s, now_s) for ticket in late)

    def _add(self, ticket: Ticket) -> None:
        entry = (inf if ticket.deadline_s is None else ticket.deadline_s, next(self._numbers), ticket)
        level = self._levels.get(ticket.priority)
        if level is None:
            level = self._levels[ticket.priority] = Level(ticket.priority)
            level.last_served = self._served
        level.add(entry, self._lead_s())
        self._entries[ticket] = entry
        if ticket.deadline_s is not None:
            self._watch(entry)

    def _remove(self, entry: Entry) -> None:
        level = self._levels[entry[2].priority]
        level.remove(entry)
        self._forget(level, entry[2])

    def _forget(self, level: Level, ticket: Ticket) -> None:
        del self._entries[ticket]
        self._foresight.forget(ticket)
        if not level.frames:
            del self._levels[level.priority]

    def _turn(self, turns: dict[int, Turn]) -> Turn:
        """The level whose turn it is."""
        level = max(self._levels.values(), key=lambda level: level.priority)
        lower = [each for each in self._levels.values() if each is not level]
        if lower and self._since_share >= SHARE - 1:
            level = min(lower, key=lambda level: (level.last_served, -level.priority))
        if level.priority not in turns:
            turns[level.priority] = Turn(level, self._lead_s())
        return turns[level.priority]

    def _serve(self, turn: Turn, ticket: Ticket) -> None:
        highest = turn.level.priority == max(self._levels)
        self._since_share = self._since_share + 1 if highest and len(self._levels) > 1 else 0
        self._served += 1
        turn.level.last_served = self._served
        self._take_from(turn, ticket, self._charge_s(ticket.rows))

    def _take_from(self, turn: Turn, ticket: Ticket, charge_s: float = 0.0) -> None:
        turn.remove(charge_s)
        self._forget(turn.level, ticket)

    def _lead_s(self) -> float:
        return LEAD_FRAMES * self._charge_s(1)

    def _charge_s(self, rows: int) -> float:
        return max(self.costs.batch_s(1, rows), _LEAST_CHARGE_S)

    def _expected_s(self, ticket: Ticket, now_s: float) -> float:
        """When a ticket would be answered that comes now, if nobody comes after it."""
        frames = rows = 0.0
        for priority, level in self._levels.items():
            if priority > ticket.priority:
                frames, rows = frames + level.frames, rows + level.rows
            elif priority == ticket.priority:
                charge_s = self._charge_s(ticket.rows)
                ahead = level.ahead(ticket, charge_s, self._lead_s())
                frames, rows = frames + ahead, rows + ahead * level.rows / level.frames
        batches, rest = divmod(int(frames), self._max_batch)
        each = rows / frames if frames else 0.0
        full_s = self.costs.batch_s(self._max_batch, round(self._max_batch * each)) if batches else 0.0
        size = max(rest + 1, self._likely(ticket, each, now_s))
        own_s = self.costs.batch_s(size, round((size - 1) * each) + ticket.rows)
        return max(now_s, self._busy_until_s) + batches * full_s + own_s

    def _likely(self, ticket: Ticket, each: float, now_s: float) -> int:
        """How many frames will run with a ticket: those that wait, as far as two such batches fit into its time.

        (Nexus, Shen et al., SOSP 2019, section 4.1.) Without room for company the deadlines
        of an overloaded engine would cut its batches down, and with them what it can do.
        """
        size = min(self._max_batch, len(self._entries) + 1)
        left_s = inf if ticket.deadline_s is None else ticket.deadline_s - now_s
        while size > 1 and 2 * self.costs.batch_s(size, round((size - 1) * each) + ticket.rows) > left_s:
            size -= 1
        return size

    def _may_probe(self, now_s: float) -> bool:
        idle = not self._entries and self._busy_until_s == -inf
        return idle and now_s >= self._probe_from_s

    def _make_room(self, ticket: Ticket, now_s: float) -> Refusal:
        level = self._levels.get(ticket.priority)
        own = len(level.flows[ticket.source].waiting) if level and ticket.source in level.flows else 0
        flows = ((level, flow) for level in self._levels.values() for flow in level.flows.values())
        _, longest = max(flows, key=lambda each: (len(each[1].waiting), -each[0].priority))
        if len(longest.waiting) <= own + 1:
            return self._refusal(ticket, Reason.FULL, now_s, inf)
        last = longest.waiting[-1]
        self._remove(last)
        return self._refusal(last[2], Reason.FULL, now_s, inf)

    def _watch(self, entry: Entry, not_before_s: float = -inf) -> None:
        """Note when a ticket must start at the latest to be kept."""
        deadline, number, ticket = entry
        latest_s = max(deadline - self.costs.batch_s(1, ticket.rows), not_before_s)
        heapq.heappush(self._latest_starts, (latest_s, number, ticket))
        if len(self._latest_starts) > 2 * len(self._entries) + 64:
            self._latest_starts = [each for each in self._latest_starts if each[2] in self._entries]
            heapq.heapify(self._latest_starts)

    def _sweep(self, now_s: float, free_s: float | None = None) -> list[Refusal]:
        """Hand back what can not be kept any more when the engine is free at `free_s` (now when None)."""
        start_s, refused = now_s if free_s is None else free_s, []
        while self._latest_starts and self._latest_starts[0][0] < start_s:
            ticket = heapq.heappop(self._latest_starts)[2]
            entry = self._entries.get(ticket)
            if entry is None or ticket is self._probe:
                continue
            expected_s = start_s + self.costs.batch_s(1, ticket.rows)
            if expected_s <= entry[0]:
                self._watch(entry, start_s)
                continue
            self._foresight.learn(ticket, expected_s)
            self._remove(entry)
            refused.append(self._refusal(ticket, Reason.LATE, now_s, expected_s))
        return refused

    def _refusal(self, ticket: Ticket, reason: Reason, now_s: float, expected_s: float) -> Refusal:
        return Refusal(ticket, reason, now_s, expected_s, len(self._entries))
