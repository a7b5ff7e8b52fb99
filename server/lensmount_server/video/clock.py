"""When a picture was taken, by the camera's own clock, where that can be believed.

A camera over RTSP tells by RTCP sender reports (RFC 3550, 6.4.1) which Unix time belongs to which
timestamp; FFmpeg attaches the time that follows to each packet after the first report. Many cameras have
never been set to the time. The smallest difference between arrival and that time is what the clock is off
plus the shortest way (the clock filter of RFC 5905): where it is small, the clock is right, and a larger
difference means that this picture has waited.
"""

from __future__ import annotations

import logging
import struct

import av
from av.video.stream import VideoStream

logger = logging.getLogger(__name__)

_NS = 1_000_000_000
# A camera that seems so far ahead, or whose shortest way seems to take so long, has a wrong clock.
AHEAD_NS = _NS // 10
BEHIND_NS = 2 * _NS
# No picture waits longer on its way: its clock was moved back.
LONGEST_NS = 10 * _NS
# The clock and the stream's own times may not run apart by more from one packet to the next.
JUMP_NS = _NS // 4
_TRIALS = 12


class CameraClock:
    """The capture times of one connection's packets; `shown` names the camera in the log."""

    def __init__(self, shown: str = "") -> None:
        self._shown = shown
        self._steady = 0
        self._drift_ns: int | None = None
        self._shortest_ns = LONGEST_NS
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the camera's clock is not believed; "" while it is, or while it has told nothing."""
        return self._trouble

    def stamp(self, packet: av.Packet[VideoStream], arrival_ns: int) -> int:
        """Unix time in nanoseconds: the camera's where it is believed, else `arrival_ns`; never later than that."""
        told_ns = _told_ns(packet)
        if told_ns is None:
            return arrival_ns
        pts_ns = 0 if packet.pts is None else int(packet.pts * packet.time_base * _NS)
        return self.judge(told_ns, pts_ns, arrival_ns)

    def judge(self, told_ns: int, pts_ns: int, arrival_ns: int) -> int:
        """The same, for a packet of which the camera says that it was taken at `told_ns`."""
        drift_ns, age_ns = told_ns - pts_ns, arrival_ns - told_ns
        if self._drift_ns is None or abs(drift_ns - self._drift_ns) > JUMP_NS or age_ns > LONGEST_NS:
            self._steady, self._shortest_ns = 0, LONGEST_NS
        self._steady += 1
        self._drift_ns = drift_ns
        self._shortest_ns = min(self._shortest_ns, age_ns)
        self._tell(self._why_not(age_ns))
        return arrival_ns if self._trouble or self._steady <= _TRIALS else min(told_ns, arrival_ns)

    def _why_not(self, age_ns: int) -> str:
        if age_ns > LONGEST_NS or self._shortest_ns > BEHIND_NS:
            return f"its clock is {min(age_ns, self._shortest_ns) / _NS:.1f} s behind or more"
        if self._shortest_ns < -AHEAD_NS:
            return f"its clock is {-self._shortest_ns / _NS:.1f} s ahead"
        return ""

    def _tell(self, trouble: str) -> None:
        if bool(trouble) != bool(self._trouble):
            told = f"not believed: {trouble}; its frames count from their arrival" if trouble else "believed again"
            logger.info("the clock of %s is %s", self._shown or "a camera", told)
        self._trouble = trouble


def _told_ns(packet: av.Packet[VideoStream]) -> int | None:
    """AVProducerReferenceTime: int64 microseconds of Unix time, then flags."""
    if not packet.has_sidedata("prft"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    return int(struct.unpack_from("=q", data)[0]) * 1000 if len(data) >= 8 else None
