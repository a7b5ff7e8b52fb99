"""The tickets of one priority: earliest deadline first, among the sources that have not had more than their share.

Every source has a tag, the engine seconds that it was served, in the manner of start-time fair
queueing (Goyal, Vin, Cheng, SIGCOMM 1996). The virtual time is the least tag of those that
wait, and never goes back; a source that comes to wait starts at most `lead` behind it, so that a quiet
source goes first and an old one has no claim for ever. A source whose tag is at most
`lead` above the least of those that wait is eligible; of the eligible the earliest deadline goes
first (as in earliest eligible virtual deadline first, Stoica and Abdel-Wahab, 1995, with real
deadlines), and where deadlines are equal or absent, the oldest.

So between two sources that wait all the time the service differs by at most 3 * lead and two
frames' cost, however early the deadlines of one are; and a source that waits is served before
any other has had more than 2 * lead and one frame's cost.
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

    __slots__ = ("tag_s", "waiting")

    def __init__(self, tag_s: float) -> None:
        self.tag_s = tag_s
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
        self._virtual_s = 0.0

    def add(self, entry: Entry, lead_s: float) -> None:
        """Let a ticket wait."""
        deadline, _, ticket = entry
        flow = self.flows.get(ticket.source)
        if flow is None:
            flow = self.flows[ticket.source] = Flow(self._virtual_s - lead_s)
        if not flow.waiting:
            flow.tag_s = max(flow.tag_s, self._virtual_s - lead_s)
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
        flow.tag_s += charge_s
        self.frames -= 1
        self.rows -= ticket.rows
        if not flow.waiting:
            self._active -= 1

    def eligible(self, lead_s: float) -> tuple[float, list[Flow]]:
        """The tag up to which a source may be served now, and the waiting sources up to there.

        Brings the virtual time forward, and forgets sources that it has left behind.
        """
        least_s = min(flow.tag_s for flow in self.flows.values() if flow.waiting)
        self._virtual_s = max(self._virtual_s, least_s)
        gone_s = self._virtual_s - lead_s
        for source in [name for name, flow in self.flows.items() if not flow.waiting and flow.tag_s <= gone_s]:
            del self.flows[source]
        limit_s = least_s + lead_s
        return limit_s, [flow for flow in self.flows.values() if flow.waiting and flow.tag_s <= limit_s]

    def ahead(self, ticket: Ticket, charge_s: float, lead_s: float) -> int:
        """How many of those that wait will be served before `ticket`, when nobody comes after it.

        Those of its own source with a deadline no later; of the others as many as have earlier
        deadlines, but no fewer and no more than fair sharing lets go first.
        """
        deadline = inf if ticket.deadline_s is None else ticket.deadline_s
        flow = self.flows.get(ticket.source) or Flow(self._virtual_s - lead_s)
        own = bisect_right(flow.waiting, deadline, key=_deadline)
        others, sources = self.frames - len(flow.waiting), self._active - bool(flow.waiting)
        earlier = bisect_right(self._deadlines, deadline) - own
        turn_s = max(flow.tag_s - self._virtual_s, -lead_s) + own * charge_s
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
            self._limit_s, flows = self.level.eligible(self._lead_s)
            self._heads = [(flow.waiting[0], flow) for flow in flows]
            heapq.heapify(self._heads)
        return self._heads[0][0]

    def remove(self, charge_s: float = 0.0) -> None:
        """Take the head away, served or not."""
        entry, flow = heapq.heappop(self._heads)
        self.level.remove(entry, charge_s)
        if flow.waiting and flow.tag_s <= self._limit_s:
            heapq.heappush(self._heads, (flow.waiting[0], flow))


def _deadline(entry: Entry) -> float:
    return entry[0]
