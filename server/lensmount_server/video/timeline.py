"""One clock and one count for a stream that is put together from several recordings or connections."""

from __future__ import annotations

import time
from threading import Event

_NS = 1_000_000_000


class Timeline:
    """Numbers frames from `first` on and gives each a time in nanoseconds that rises over loops and reconnections.

    `last_ns` is the time of the frame before the first, if there was one. A stream whose own times repeat or go
    back goes on one step after its last frame, and so does one that jumps ahead by more than a day: no stream has
    such a hole.
    """

    _LONGEST_HOLE_NS = 24 * 3600 * _NS

    def __init__(self, first: int = 0, last_ns: int = 0) -> None:
        self._index = first - 1
        self._last_ns = last_ns
        self._step_ns = _NS // 25
        self._offset_ns: int | None = None

    @property
    def frames(self) -> int:
        """Frames numbered so far."""
        return self._index + 1

    def begin(self, step_ns: int) -> None:
        """The next frame is the first of another recording, one step of `step_ns` after the last frame."""
        self._offset_ns = None
        self._step_ns = max(step_ns, 1)

    def place(self, pts_ns: int | None) -> tuple[int, int]:
        """Index and time of a frame whose own recording says `pts_ns`; one that says nothing comes a step later."""
        self._index += 1
        expected = self._last_ns + self._step_ns if self._index else 0
        if pts_ns is not None:
            if not self._follows(pts_ns):
                self._offset_ns = expected - pts_ns
            expected = pts_ns + (self._offset_ns or 0)
        self._last_ns = expected
        return self._index, self._last_ns

    def _follows(self, pts_ns: int) -> bool:
        if self._offset_ns is None:
            return False
        return not self._index or 0 < pts_ns + self._offset_ns - self._last_ns <= self._LONGEST_HOLE_NS


class Pacer:
    """Lets the frames of a recording go at the speed at which they were taken."""

    _LONGEST_WAIT_NS = 10 * _NS

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._zero_ns: int | None = None

    def wait(self, pts_ns: int) -> None:
        """Returns when the frame is due, or when `stop` is set.

        Behind by more than a second (a slow reader), or ahead by more than ten (a hole in
        the recording), it starts afresh from this frame instead of rushing or sleeping.
        """
        now = time.monotonic_ns()
        if self._zero_ns is None:
            self._zero_ns = now - pts_ns
        ahead = self._zero_ns + pts_ns - now
        if not -_NS <= ahead <= self._LONGEST_WAIT_NS:
            self._zero_ns, ahead = now - pts_ns, 0
        if ahead > 0:
            self._stop.wait(ahead / _NS)
