"""What a stream gives: an answer, the frame it is for, where the time went and what was lost before it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from lensmount_server.frames import Answer, Frame
from lensmount_server.video.account import Drops


@dataclass(frozen=True)
class Timings:
    """Where the time of one result went, in milliseconds; `total_ms` runs from capture to the result."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True)
class StreamResult:
    """The answer of one adapter for one frame.

    `dropped_before` is what was lost since the previous result of this task on this stream,
    with the frames that only other tasks answered: `rate` where this one skipped them, `late`
    where it was left out. So it explains every gap in the task's frame numbers. `reused`: the scene was still, and
    the last answer stands for this frame too.
    `frame` holds the picture for those who draw on it, and is None where nobody asked for pictures.
    """

    source: str
    frame_index: int
    pts_ns: int
    capture_time_ns: int
    answer: Answer
    timings: Timings
    dropped_before: Drops
    frame: Frame | None = field(default=None, compare=False, repr=False)
    reused: bool = False

    @classmethod
    def of(cls, source: str, frame: Frame, answer: Answer, lost: Drops, *, reused: bool) -> StreamResult:
        """The result of this moment."""
        total_ms = max(time.time_ns() - frame.capture_time_ns, 0) / 1e6
        timings = Timings(frame.decode_ms, answer.queue_ms, answer.inference_ms, total_ms)
        times = frame.pts_ns, frame.capture_time_ns
        return cls(source, frame.index, *times, answer, timings, lost, frame, reused)
