"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Doubles from `first_s` up to `longest_s`; the last half of each delay is random, so that cameras spread."""

    first_s: float = 0.5
    longest_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, from 1."""
        delay = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  # nobody gains by guessing it
