"""How much longer a source's tickets wait than what was before them when they came."""

from __future__ import annotations

from lensmount_server.scheduling.tickets import Ticket

_GAIN = 0.1
_FORGET = 0.02
_MOST = 20.0
_SOURCES = 1024


class Foresight:
    """Corrects the expected times of each source by what became of its earlier tickets.

    An estimate made at the door knows nothing of what comes later with a higher priority, an
    earlier deadline or a smaller share so far. How far it was off is learned, as a moving mean of
    actual over expected seconds, at least 1; each ticket that is refused for this alone
    makes it a little smaller again, so that a refusal never lasts.
    """

    def __init__(self) -> None:
        self._stretch: dict[str, float] = {}
        self._expected: dict[Ticket, tuple[float, float]] = {}

    def likely_s(self, ticket: Ticket, now_s: float, expected_s: float) -> float:
        """When a ticket will be answered that would be at `expected_s` if nobody came after it."""
        return now_s + self._stretch.get(ticket.source, 1.0) * (expected_s - now_s)

    def note(self, ticket: Ticket, now_s: float, expected_s: float) -> None:
        """A ticket was let in."""
        self._expected[ticket] = now_s, max(expected_s - now_s, 1e-6)

    def learn(self, ticket: Ticket, done_s: float) -> None:
        """It will be answered then, or could have been at the earliest."""
        noted = self._expected.pop(ticket, None)
        if noted is not None:
            noted_s, expected_s = noted
            self._move(ticket.source, min(max((done_s - noted_s) / expected_s, 1.0), _MOST), _GAIN)

    def forget(self, ticket: Ticket) -> None:
        """It went for other reasons."""
        self._expected.pop(ticket, None)

    def doubt(self, ticket: Ticket) -> None:
        """A ticket was refused that would have been in time if nobody came after it."""
        self._move(ticket.source, 1.0, _FORGET)

    def _move(self, source: str, to: float, gain: float) -> None:
        stretch = self._stretch.pop(source, 1.0)
        self._stretch[source] = stretch + gain * (to - stretch)
        if len(self._stretch) > _SOURCES:
            del self._stretch[next(iter(self._stretch))]
