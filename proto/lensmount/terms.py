"""On which terms frames are answered: deadline, priority, rate; the limits hold on both ends of the wire."""

from __future__ import annotations

import math

from lensmount.errors import InvalidInputError

MAX_DEADLINE_MS = 3_600_000
MAX_PRIORITY = 10
MIN_FPS, MAX_FPS = 0.001, 1000.0


def deadline_number(deadline_ms: int, field: str = "deadline_ms") -> int:
    """Milliseconds from a frame's capture to its answer, 0 for none; InvalidInputError for what can not be."""
    if not isinstance(deadline_ms, int) or not 0 <= deadline_ms <= MAX_DEADLINE_MS:
        fix = f"give whole milliseconds from 1 to {MAX_DEADLINE_MS:,}, or 0 for none"
        raise InvalidInputError("not a deadline", field=field, value=deadline_ms, fix=fix)
    return deadline_ms


def priority_number(priority: int, field: str = "priority") -> int:
    """A priority, higher goes first; InvalidInputError for what can not be."""
    if not isinstance(priority, int) or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        fix = f"give a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}; 0 is the usual one, higher goes first"
        raise InvalidInputError("not a priority", field=field, value=priority, fix=fix)
    return priority


def rate_number(max_fps: float, field: str = "tasks") -> float:
    """At most so many frames a second, 0 for every frame; InvalidInputError for what can not be."""
    if not (max_fps == 0 or (math.isfinite(max_fps) and MIN_FPS <= max_fps <= MAX_FPS)):
        fix = f"give {MIN_FPS:g} to {MAX_FPS:g} frames a second, or leave the rate away for every frame"
        raise InvalidInputError("not a rate", field=field, value=f"{max_fps:g} fps", fix=fix)
    return max_fps
