"""Which packets need not be decoded, because no task looks at their pictures.

A task that wants a picture every P seconds (`scheduling.rates.Turns`) loses nothing as long as no two pictures that
come are further apart than P. Two kinds of packets can be left out without harm to any other:

- a picture that no other refers to, if its neighbours that do come are near enough;
- the rest of a group of pictures, if the next key frame comes soon enough. When it comes must be foretold: from the
  groups before, when they were of one length, as cameras make them. With one picture a group wanted, or fewer, that
  leaves key frames alone.

Everything that is decoded is bit by bit what a full decode gives: after the rest of a group was left out, the decoder
starts anew at the next key frame, and pictures shown before it that may refer further back are left out too.

What this can not do: cameras that let every picture refer to the one before it (IPPP), with groups much shorter than
P or much longer, leave nothing to save but the end of each group. With B-frames held back for reordering, fewer
pictures means that each is held back longer: the depth is counted in pictures. Two fields in packets of their own, of
which only the second is referred to by nobody, would lose it; no encoder is known to write that.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

from lensmount_server.video.nal import Glimpse
from lensmount_server.video.settings import Effort

_NS = 1_000_000_000
# Groups of one length until the next one is believed to have it too; doubled by each that had not.
_BELIEVED, _MOST_DOUBTED = 2, 64
# Groups of one length differ by no more than this share: timestamps jitter.
_ALIKE = 0.1
_STEPS = 16


class Verdict(Enum):
    """What to do with a packet: decode it, leave it out, or leave out everything up to the next key frame."""

    DECODE = auto()
    SKIP = auto()
    CLOSE = auto()


class Thrift:
    """Judges the packets of one connection in the order in which they come.

    `max_fps` is the highest rate that a task wants, 0: every picture. It counts for AUTO alone and may be set from
    another thread at any time; what was left out until then can not be made up for before the next key frame.

    With AUTO, groups of one length and timestamps that rise, no two pictures that come are further apart than
    1 / max_fps, unless the source's own are. A group that is longer than was foretold can cost one gap of up to its
    length; then twice as many alike ones are asked for.
    """

    def __init__(self, effort: Effort = Effort.AUTO, max_fps: float = 0.0) -> None:
        self.max_fps = max_fps
        self._effort = effort
        self._groups = _Groups()
        self._closed = False
        self._opened_ns: int | None = None
        self._kept: deque[int] = deque(maxlen=_STEPS)
        self._steps: deque[int] = deque(maxlen=_STEPS)
        self._newest_ns: int | None = None

    def judge(self, glimpse: Glimpse) -> Verdict:
        """Whether the packet is needed. CLOSE: it is not, and the decoder is to give what it holds and start anew."""
        if self._effort is Effort.ALL:
            return Verdict.DECODE
        if self._effort is Effort.KEY:
            return self._only_keys(glimpse)
        if self._effort is Effort.REFERENCE:
            return Verdict.DECODE if glimpse.referred or glimpse.key else Verdict.SKIP
        if glimpse.pts_ns is None:
            return Verdict.SKIP if self._closed and not glimpse.key else self._open()
        verdict = self._by_rate(glimpse, glimpse.pts_ns)
        self._note(glimpse.pts_ns, verdict)
        return verdict

    def _only_keys(self, glimpse: Glimpse) -> Verdict:
        if glimpse.key:
            return self._open()
        return self._close()

    def _by_rate(self, glimpse: Glimpse, pts_ns: int) -> Verdict:
        period_ns = int(_NS / self.max_fps) if self.max_fps else 0
        if not glimpse.referred:
            needless = self._closed or self._leads(pts_ns) or self._is_bridged(pts_ns, period_ns)
            return Verdict.SKIP if needless else Verdict.DECODE
        if glimpse.key:
            if not self._groups.begin(pts_ns, clean=glimpse.clean):
                self._forget()
            if self._closed:
                self._opened_ns = pts_ns
            return self._open()
        if self._closed:
            self._groups.doubt(pts_ns)
            return Verdict.SKIP
        if self._leads(pts_ns):
            return Verdict.SKIP
        self._opened_ns = None
        return self._close() if self._ends_here(pts_ns, period_ns) else Verdict.DECODE

    def _leads(self, pts_ns: int) -> bool:
        """Whether it is shown before the key frame at which the decoder started anew."""
        return self._opened_ns is not None and pts_ns < self._opened_ns

    def _is_bridged(self, pts_ns: int, period_ns: int) -> bool:
        """Whether the pictures on both sides of it are near enough; the one after it may still have to come."""
        before = max((kept for kept in self._kept if kept < pts_ns), default=None)
        if before is None or not period_ns:
            return False
        after = min((kept for kept in self._kept if kept > pts_ns), default=None)
        if after is None:
            if not self._steps:
                return False
            after = pts_ns + max(self._steps)
        return after - before <= period_ns

    def _ends_here(self, pts_ns: int, period_ns: int) -> bool:
        """Whether the rest of the group is not needed; only in front of a picture shown after all that were kept."""
        next_key_ns = self._groups.next_ns
        last = max(self._kept, default=None)
        if next_key_ns is None or last is None or pts_ns <= last:
            return False
        return pts_ns < next_key_ns and next_key_ns - last <= period_ns

    def _open(self) -> Verdict:
        self._closed = False
        return Verdict.DECODE

    def _close(self) -> Verdict:
        if self._closed:
            return Verdict.SKIP
        self._closed = True
        return Verdict.CLOSE

    def _forget(self) -> None:
        self._kept.clear()
        self._steps.clear()
        self._newest_ns = None

    def _note(self, pts_ns: int, verdict: Verdict) -> None:
        if self._newest_ns is not None and pts_ns > self._newest_ns:
            self._steps.append(pts_ns - self._newest_ns)
        if self._newest_ns is None or pts_ns > self._newest_ns:
            self._newest_ns = pts_ns
        if verdict is Verdict.DECODE:
            self._kept.append(pts_ns)


class _Groups:
    """The lengths of groups of pictures, and what they say of the next."""

    def __init__(self) -> None:
        self._began_ns: int | None = None
        self._lengths: deque[int] = deque(maxlen=_MOST_DOUBTED)
        self._wanted = _BELIEVED

    @property
    def next_ns(self) -> int | None:
        """When the next key frame is shown, if the groups so far tell."""
        recent = list(self._lengths)[-self._wanted :]
        if self._began_ns is None or len(recent) < self._wanted or max(recent) > (1 + _ALIKE) * min(recent):
            return None
        return self._began_ns + max(recent)

    def begin(self, pts_ns: int, *, clean: bool) -> bool:
        """A group begins; False when time goes back. One that is not clean tells nothing: no place to start at."""
        length = None if self._began_ns is None else pts_ns - self._began_ns
        self._began_ns = pts_ns
        if not clean or (length is not None and length <= 0):
            self._lengths.clear()
        elif length is not None:
            self._lengths.append(length)
        return length is None or length > 0

    def doubt(self, pts_ns: int) -> None:
        """A picture of this time came and no key frame: if one was due, the groups are believed less."""
        due = self.next_ns
        if due is not None and pts_ns > due + _ALIKE * (due - (self._began_ns or 0)):
            self._lengths.clear()
            self._wanted = min(2 * self._wanted, _MOST_DOUBTED)
