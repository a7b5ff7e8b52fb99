"""The account of one stream: every decoded frame is answered, dropped for a reason, or in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Drops:
    """How many were lost, by reason: the wire's `Drops`, and `failed`.

    `superseded`: replaced by a newer frame while it waited; `late`: past its deadline;
    `rate`: the task asked for fewer frames; `decode`: packets that never became a frame;
    `gate`: the motion gate reused the last answer; `subscriber`: results that a slow
    subscriber lost; `failed`: its answer failed, or the stream stopped before it came.
    """

    superseded: int = 0
    late: int = 0
    rate: int = 0
    decode: int = 0
    gate: int = 0
    subscriber: int = 0
    failed: int = 0

    @property
    def frames(self) -> int:
        """Decoded frames among them: neither packets nor results."""
        return self.superseded + self.late + self.rate + self.gate + self.failed

    def __add__(self, other: Drops) -> Drops:
        return Drops(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __bool__(self) -> bool:
        return self != NO_DROPS


NO_DROPS = Drops()


@dataclass(frozen=True)
class AccountState:
    """A consistent reading of an account; `decoded == answered + dropped.frames + in_flight`."""

    decoded: int = 0
    answered: int = 0
    dropped: Drops = NO_DROPS

    @property
    def in_flight(self) -> int:
        """Frames that wait in the mailbox or for their answer."""
        return self.decoded - self.answered - self.dropped.frames

    def __add__(self, other: AccountState) -> AccountState:
        return AccountState(
            self.decoded + other.decoded,
            self.answered + other.answered,
            self.dropped + other.dropped,
        )


class Account:
    """Counts what becomes of a stream's frames. Safe to use from any thread.

    `told`, if given, is called with each new state before the next one can come.
    """

    def __init__(self, told: Callable[[AccountState], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._state = AccountState()
        self._told = told

    def add(self, *, decoded: int = 0, answered: int = 0, dropped: Drops = NO_DROPS) -> None:
        """Adds to the counts, all at once."""
        with self._lock:
            state = self._state
            self._state = AccountState(
                state.decoded + decoded,
                state.answered + answered,
                state.dropped + dropped,
            )
            if self._told is not None:
                self._told(self._state)

    def state(self) -> AccountState:
        """The counts now."""
        return self._state
