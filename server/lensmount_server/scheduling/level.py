"""The tickets of one priority: earliest deadline first, among the sources that have not had more than their share.

Every source has a tag, the engine seconds that it was served, in the manner of start-time fair
queueing (Goyal, Vin, Cheng, SIGCOMM 1996): a source that comes to wait starts at the virtual
time, which is the least tag of those that wait. A source whose tag is at most `lead`
ahead of the virtual time is eligible; of the eligible the earliest deadline goes first (as in
earliest eligible virtual deadline first, Stoica and Abdel-Wahab, 1995, with real deadlines), and
where deadlines are equal or absent, the oldest.

So between two sources that both wait all the time the service differs by at most `lead` and
two frames' cost, however early the deadlines of one are; and the source with the least tag is served
before the others together have had (sources - 1) * (lead + 2 frames' cost).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from math import inf

from lensmount_server.scheduling.tickets import Ticket

# Deadline (inf: none), number of arrival, ticket. The number is unique: tickets are never compared.
Entry = tuple[float, int, Ticket]


class Flow:
    """What waits of one source, earliest deadline first, and the engine seconds that it was served."""

    __slots__ = ("tag", "waiting")

    def __init__(self) -> None:
        self.tag = 0.0
        self.waiting: list[Entry] = []


class Level:
    """What waits at one priority."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.flows: dict[str, Flow] = {}
        self.frames = 0
        self.rows = 0
        self.last_served = 0
        self._deadlines: list[float] = []
        self._active = 0
        self._virtual = 0.0

    def add(self, entry: Entry) -> None:
        """Let a ticket wait."""
        deadline, _, ticket = entry
        flow = self.flows.setdefault(ticket.source, Flow())
        if not flow.waiting:
            flow.tag = max(flow.tag, self._virtual)
            self._active += 1
        insort(flow.waiting, entry)
        insort(self._deadlines, deadline)
        self.frames += 1
        self.rows += ticket.rows

    def remove(self, entry: Entry, charge_s: float = 0.0) -> None:
        """A waiting ticket goes: served, which its source is charged for, or not."""
        deadline, _, ticket = entry
        flow = self.flows[ticket.source]
        del flow.waiting[bisect_left(flow.waiting, entry)]
        del self._deadlines[bisect_left(self._deadlines, deadline)]
        flow.tag += charge_s
        self.frames -= 1
        self.rows -= ticket.rows
        if not flow.waiting:
            self._active -= 1

    def advance(self) -> float:
        """Bring the virtual time forward; forgets sources that it has caught up with."""
        self._virtual = max(self._virtual, min(flow.tag for flow in self.flows.values() if flow.waiting))
        for source in [name for name, flow in self.flows.items() if not flow.waiting and flow.tag <= self._virtual]:
            del self.flows[source]
        return self._virtual

    def ahead(self, ticket: Ticket, charge_s: float, lead_s: float) -> int:
        """How many of those that wait will be served before `ticket`, when nobody comes after it.

        Those of its own source with a deadline no later; of the others as many as have earlier
        deadlines, but no fewer and no more than fair sharing lets go first.
        """
        deadline = inf if ticket.deadline_s is None else ticket.deadline_s
        flow = self.flows.get(ticket.source) or Flow()
        own = bisect_right(flow.waiting, deadline, key=_deadline)
        others, sources = self.frames - len(flow.waiting), self._active - bool(flow.waiting)
        earlier = bisect_right(self._deadlines, deadline) - own
        turn_s = max(flow.tag - self._virtual, 0.0) + own * charge_s
        least = int(sources * max(turn_s - lead_s, 0.0) / charge_s)
        most = int(sources * ((turn_s + lead_s) / charge_s + 1))
        return own + min(others, max(least, min(earlier, most)))


class Turn:
    """The order of one level while a batch is formed."""

    def __init__(self, level: Level, lead_s: float) -> None:
        self.level = level
        self._lead_s = lead_s
        self._limit_s = -inf
        self._heads: list[tuple[Entry, Flow]] = []

    def head(self) -> Entry:
        """Who is next; the level must have somebody."""
        while not self._heads:
            self._limit_s = self.level.advance() + self._lead_s
            flows = [flow for flow in self.level.flows.values() if flow.waiting and flow.tag <= self._limit_s]
            self._heads = [(flow.waiting[0], flow) for flow in flows]
            heapq.heapify(self._heads)
        return self._heads[0][0]

    def remove(self, charge_s: float = 0.0) -> None:
        """Take the head away, served or not."""
        entry, flow = heapq.heappop(self._heads)
        self.level.remove(entry, charge_s)
        if flow.waiting and flow.tag <= self._limit_s:
            heapq.heappush(self._heads, (flow.waiting[0], flow))


def _deadline(entry: Entry) -> float:
    return entry[0]
