"""At most so many frames a second for a task, without drift and without beating against the camera's rate.

The generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling) on the stream's own
time, in whole nanoseconds, with one period of credit. A turn that comes late, because
frames come when they come, does not move the turns after it: over hours a task gets its
rate exactly, whatever the camera's is. A camera slower than the rate, or as fast, loses no
frame by jitter of up to half a period.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class StreamClock:
    """A stream's own time: follows the presentation times, and never goes back.

    A frame whose presentation time does not go forward (a client that sends none, a
    camera that starts again) is placed by its capture time.
    """

    def __init__(self) -> None:
        self._now_ns = 0
        self._pts_ns: int | None = None
        self._capture_ns = 0

    def tick(self, pts_ns: int, capture_time_ns: int) -> int:
        """The time of the next frame, in nanoseconds from the first."""
        if self._pts_ns is not None:
            forward = pts_ns - self._pts_ns
            self._now_ns += forward if forward > 0 else max(capture_time_ns - self._capture_ns, 0)
        self._pts_ns, self._capture_ns = pts_ns, capture_time_ns
        return self._now_ns


class Turns:
    """The turns of one task on one stream: `max_fps` a second of the stream's time, every frame when it is 0.

    In any span of s seconds at most s * max_fps + 2 frames are taken.
    """

    def __init__(self, max_fps: float) -> None:
        self._period_ns = int(1e9 / max_fps) if max_fps else 0
        self._next_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether the task looks at the frame of this time, which must not go back."""
        if self._next_ns is None:
            self._next_ns = now_ns + self._period_ns // 2
            return True
        if now_ns < self._next_ns:
            return False
        self._next_ns = max(self._next_ns, now_ns - self._period_ns) + self._period_ns
        return True

    def give_back(self) -> None:
        """The frame of the last turn was not answered: the next frame may have it."""
        if self._next_ns is not None:
            self._next_ns -= self._period_ns


class TurnTable:
    """The turns of all tasks of one stream, by their position in `rates` (frames a second; 0: every frame)."""

    def __init__(self, rates: Sequence[float]) -> None:
        self._clock = StreamClock()
        self._turns = [Turns(rate) for rate in rates]

    def due(self, pts_ns: int, capture_time_ns: int) -> tuple[int, ...]:
        """The tasks that look at the next frame of the stream, which has these times."""
        now_ns = self._clock.tick(pts_ns, capture_time_ns)
        return tuple([position for position, turns in enumerate(self._turns) if turns.take(now_ns)])

    def give_back(self, positions: Iterable[int]) -> None:
        """These tasks had a turn, and their frame was not answered."""
        for position in positions:
            self._turns[position].give_back()
