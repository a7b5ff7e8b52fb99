"""Videos as a source of pictures: each hashed once, decoded once for times that come in order, few open at a time.

Threads that ask out of order do no harm: a frame that is passed on the way to a later time is kept for its own.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from threading import Lock

import av

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data.colours import rgb
from lensmount_training.data.decoding import Pass

# Videos with a decoder each, and frames that were passed and are still to be asked for.
OPEN, READY = 4, 8


class Video:
    """One file; may be asked by several threads. `wanted` are the times in ms, in order, that will be asked for."""

    def __init__(self, path: Path, videos: Videos) -> None:
        self.path = path
        self.wanted: Sequence[int] = ()
        self._videos = videos
        self._lock = Lock()
        self._digest = ""
        self._stamp: _Stamp | None = None
        self._pass: Pass | None = None
        self._ready: OrderedDict[int, av.VideoFrame] = OrderedDict()

    def digest(self) -> str:
        """SHA-256 of the file when it was first asked for; raises OSError."""
        with self._lock:
            if not self._digest:
                with self.path.open("rb") as file:
                    self._stamp = _stamp(self.path)
                    self._digest = hashlib.file_digest(file, "sha256").hexdigest()
            return self._digest

    def picture(self, time_ms: int) -> Pixels:
        """RGB at that time: the last frame that begins at or before it; before the first frame, that one.

        Raises InvalidInputError when the file was changed, can not be decoded or is shorter, TooLargeError beyond the
        limits of pictures, OSError when it is gone.
        """
        with self._lock:
            frame = self._ready.pop(time_ms, None) or self._decoded(time_ms)
        return rgb(frame)

    def close(self) -> None:
        """Close the decoder unless somebody uses it; it is opened again when it is needed."""
        if self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _decoded(self, time_ms: int) -> av.VideoFrame:
        if self._pass is None:
            self._check_unchanged()
            self._pass = Pass(self.path)
            self._videos.opened(self)
        try:
            for start, end, frame in self._pass.go_to(time_ms):
                self._keep(start, end, frame)
            return self._pass.frame
        except InvalidInputError:
            self._end()
            raise
        finally:
            if not self.wanted or time_ms >= self.wanted[-1]:
                self._end()

    def _keep(self, start: Fraction, end: Fraction, frame: av.VideoFrame) -> None:
        """Keep a frame that is passed for the wanted times from start to end: another thread may come for them."""
        for time_ms in self.wanted[bisect_left(self.wanted, start) : bisect_left(self.wanted, end)]:
            self._ready[time_ms] = frame
            if len(self._ready) > READY:
                self._ready.popitem(last=False)

    def _check_unchanged(self) -> None:
        if self._stamp not in (None, _stamp(self.path)):
            fix = "start again when nothing writes to it"
            raise InvalidInputError("it was changed while it was read", field="data", value=self.path, fix=fix)

    def _end(self) -> None:
        if self._pass is not None:
            self._pass.close()
            self._pass = None


class Videos:
    """The videos of a data set, of which few are open at a time."""

    def __init__(self) -> None:
        self._videos: dict[Path, Video] = {}
        self._open: list[Video] = []
        self._lock = Lock()

    def get(self, path: Path) -> Video:
        """The video at a path, the same each time."""
        return self._videos.setdefault(path, Video(path, self))

    def opened(self, video: Video) -> None:
        """To be called by a video that opens its decoder: the one that was opened longest ago is closed for it."""
        with self._lock:
            self._open = [other for other in self._open if other is not video] + [video]
            if len(self._open) > OPEN:
                self._open.pop(0).close()


_Stamp = tuple[int, int, int]


def _stamp(path: Path) -> _Stamp:
    """What changes when a file is written to."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
