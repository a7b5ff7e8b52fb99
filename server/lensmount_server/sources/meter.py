"""Frames a second over the last seconds, and how long ago the last one came."""

from __future__ import annotations

from collections import deque


class Meter:
    """Reads a frame counter now and then. Times are seconds of one monotonic clock."""

    def __init__(self, window_s: float = 5.0) -> None:
        self._window_s = window_s
        self._readings: deque[tuple[float, int]] = deque()
        self._moved_at = 0.0

    def read(self, now_s: float, frames: int) -> None:
        """Notes that the counter says `frames` now."""
        if not self._readings or self._readings[-1][1] != frames:
            self._moved_at = now_s
        self._readings.append((now_s, frames))
        while self._readings[0][0] < now_s - self._window_s:
            self._readings.popleft()

    def fps(self) -> float:
        """Frames a second over the window; 0.0 before the second reading."""
        if len(self._readings) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._readings[0], self._readings[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def idle_s(self) -> float:
        """Seconds between the last reading and the one that last saw the counter move."""
        return self._readings[-1][0] - self._moved_at if self._readings else 0.0
