"""What a batch costs, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

_DECAY = 0.95
_SURPRISE = 4.0
_SHRINK = 0.25
_MAX_SPREAD = 0.5


class Costs(Protocol):
    """Says how long a batch will take, and is told how long it took."""

    def batch_s(self, frames: int, rows: int) -> float:
        """Seconds that the engine needs for so many frames with so many (frame, adapter) rows in all."""
        ...

    def observe(self, frames: int, rows: int, seconds: float) -> None:
        """A batch took so long. A table of measured costs may correct itself, or not care."""
        ...


class LearnedCosts:
    """Learns from the batches that ran: seconds = a + b * (frames + rows), and how far off that was.

    Least squares with weights that fade by 5 % a batch, drawn towards proportional cost while
    batches of one size only have been seen. The estimate is on the safe side by two mean
    deviations, as in Jacobson, "Congestion avoidance and control" (SIGCOMM 1988). One batch
    counts as at most four times what was expected, so that a single hiccup does not
    close the door for long. Without a table and before the first batch every cost is 0: nothing is refused unseen.
    """

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._spread = 0.0
        self._fixed_s = self._each_s = 0.0

    @classmethod
    def of_table(cls, batch_ms: Mapping[int, float]) -> LearnedCosts:
        """Begin with what was measured: milliseconds of batches of so many frames, one row each."""
        costs = cls()
        for frames in sorted(batch_ms):
            costs.observe(frames, frames, batch_ms[frames] / 1e3)
        return costs

    def batch_s(self, frames: int, rows: int) -> float:
        """Seconds, on the safe side."""
        return self._fixed_s + self._each_s * (frames + rows)

    def observe(self, frames: int, rows: int, seconds: float) -> None:
        """Take a batch into the fit."""
        x, y = float(frames + rows), max(seconds, 1e-6)
        if self._weight:
            expected = self.batch_s(frames, rows) / (1 + 2 * self._spread)
            y = min(y, _SURPRISE * expected)
            self._spread += (1 - _DECAY) * (min(abs(y / expected - 1), 2 * _MAX_SPREAD) - self._spread)
        self._weight = self._weight * _DECAY + 1
        self._x = self._x * _DECAY + x
        self._y = self._y * _DECAY + y
        self._xx = self._xx * _DECAY + x * x
        self._xy = self._xy * _DECAY + x * y
        self._fit()

    def _fit(self) -> None:
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = max(self._xx / self._weight - mean_x * mean_x, 0.0)
        covariance = self._xy / self._weight - mean_x * mean_y
        proportional = mean_y / mean_x
        slope = (covariance + _SHRINK * proportional) / (variance + _SHRINK)
        slope = min(max(slope, 0.0), proportional)
        safe = 1 + 2 * min(self._spread, _MAX_SPREAD)
        self._each_s, self._fixed_s = slope * safe, (mean_y - slope * mean_x) * safe


def best_batch(batch_ms: Mapping[int, float]) -> int:
    """The smallest measured batch whose cost a frame is within a twentieth of the best."""
    per_frame = {frames: ms / frames for frames, ms in batch_ms.items()}
    return min(frames for frames, ms in per_frame.items() if ms <= 1.05 * min(per_frame.values()))
