"""What the scheduler reasons about: a ticket stands for a waiting frame, a batch for those that run together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from lensmount.errors import DeadlineError, LensmountError, TooLargeError


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a stream's frames are answered.

    Frames of one `source` share what it gets of the engine. A higher `priority` (-10 to 10)
    goes first. `deadline_s` runs from a frame's capture to its answer; None: as long as it takes.
    """

    source: str = ""
    priority: int = 0
    deadline_s: float | None = None


ANY_TIME = Terms()


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A frame that waits, and the number of rows (tasks) that it wants; each ticket is its own key.

    `arrived_s` and `deadline_s` are on the scheduler's clock; a deadline of None is none.
    """

    source: str
    rows: int
    priority: int = 0
    deadline_s: float | None = None
    arrived_s: float = 0.0


class Reason(Enum):
    """Why a ticket was handed back: its deadline can not be kept, or too many wait."""

    LATE = auto()
    FULL = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A ticket that will not be answered.

    `at_s` is when that was known, `expected_s` when its answer could have been there, and
    `waiting` how many tickets waited then.
    """

    ticket: Ticket
    reason: Reason
    at_s: float
    expected_s: float
    waiting: int

    def error(self) -> LensmountError:
        """What its caller is told: DeadlineError or TooLargeError."""
        if self.reason is Reason.FULL:
            fix = "send fewer frames, or let the stream drop them: drop_policy NEWEST"
            return TooLargeError("too many frames wait for the engine", value=self.waiting, fix=fix)
        left_ms = ((self.ticket.deadline_s or 0.0) - self.at_s) * 1e3
        needed_ms = (self.expected_s - self.at_s) * 1e3
        value = f"{left_ms:z.0f} ms left, {needed_ms:z.0f} ms needed"
        fix = "give it more time, ask fewer tasks or fewer frames a second, or raise its priority"
        return DeadlineError("can not be answered in time", field="deadline", value=value, fix=fix)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the engine shall run now, in the order taken, and the tickets for which it is too late.

    `expected_s` is when it should be done. No tickets: there is nothing to run.
    """

    tickets: tuple[Ticket, ...]
    refused: tuple[Refusal, ...]
    expected_s: float
