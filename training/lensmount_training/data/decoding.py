"""One way through a video file: to the frame that is shown at a time, by decoding as little as is certain.

What is shown at a time does not depend on the way there. The decoder starts anew only at a key frame, and what comes
out of it before that frame is thrown away: it may refer to pictures that were not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Any

import av

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import check_sides

THREADS = 4
# To start anew at a key frame pays from so many milliseconds of frames on that are not decoded for it.
LEAP_MS = 1000
# Before the wanted time in ms, since files index the order of decoding, which is not that of showing.
_BACK_MS = (0, 1000, 10_000)
_FIX = "play the video, and encode it again where it breaks off"


class Pass:
    """An open decoder at `frame`, which is shown from `start` ms on. Times count from the beginning of the file.

    Raises InvalidInputError for what is no video, TooLargeError for pictures beyond the limits.
    """

    frame: av.VideoFrame
    start: Fraction
    _next: tuple[Fraction, av.VideoFrame] | None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def go_to(self, time_ms: int) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
        """Move to the last frame that begins at or before that time, or to the first there is.

        Gives start, end and picture of the frames that are passed. Raises InvalidInputError when the video ends before.
        """
        if time_ms < self.start or self._key_frame_before(time_ms) > self.start + LEAP_MS:
            self._leap(time_ms)
        while self._next is not None and self._next[0] <= time_ms:
            yield self.start, self._next[0], self.frame
            (self.start, self.frame), self._next = self._next, next(self._frames, None)
        if self._next is None and time_ms >= self.start + self._shown_for():
            seconds = float(self.start + self._shown_for()) / 1000
            raise self._refused(f"the video ends at {seconds:.2f} s")

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> None:
        self._container = open_video(self._path)
        self._stream: Any = self._container.streams.best("video")
        context = self._stream.codec_context
        context.thread_type, context.thread_count = "AUTO", THREADS
        try:
            check_sides(context.width, context.height, field="data")
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Take the first two frames from a key frame on."""
        self._frames = iter(dropwhile(lambda each: not each[1].key_frame, self._decoded()))
        first = next(self._frames, None)
        if first is None:
            raise self._refused("no picture in the video can be decoded")
        (self.start, self.frame), self._next = first, next(self._frames, None)

    def _decoded(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Start in ms and picture of what follows, in the order of showing. Damaged packets give no picture."""
        origin = Fraction(self._container.start_time or 0, 1000)
        last = None
        try:
            for packet in self._container.demux(self._stream):
                for frame in _frames(packet):
                    if frame.pts is None:
                        raise self._refused("the video does not say when its pictures are shown", "put it into MP4")
                    start = frame.pts * self._stream.time_base * 1000 - origin
                    if last is None or start > last:
                        last = start
                        yield start, frame
        except av.FFmpegError:  # the file breaks off: what was decoded is good
            return

    def _leap(self, time_ms: int) -> None:
        """Start anew at a key frame that is shown at or before that time; from the beginning where there is none."""
        for back in _BACK_MS:
            place = Fraction(time_ms - back, 1000) + Fraction(self._container.start_time or 0, 1_000_000)
            try:
                self._container.seek(int(place / self._stream.time_base), stream=self._stream)
                self._begin()
            except (av.FFmpegError, InvalidInputError):
                continue
            if self.start <= time_ms:
                return
        self.close()
        self._open()

    def _key_frame_before(self, time_ms: int) -> Fraction:
        """When the last key frame that the index has at or before that time is shown, about; -1 where it has none."""
        base, entries = self._stream.time_base, self._stream.index_entries
        origin = Fraction(self._container.start_time or 0, 1000)
        found = entries.search_timestamp(int((time_ms + origin) / 1000 / base))
        return entries[found].timestamp * base * 1000 - origin if found >= 0 else Fraction(-1)

    def _shown_for(self) -> Fraction:
        """How long the frame is shown, in ms, by its own words or by the rate of the stream."""
        if self.frame.duration:
            return Fraction(self.frame.duration * self._stream.time_base * 1000)
        rate = self._stream.average_rate
        return Fraction(1000) / rate if rate else Fraction(1000)

    def _refused(self, message: str, fix: str = _FIX) -> InvalidInputError:
        return InvalidInputError(message, field="data", value=self._path, fix=fix)


def open_video(path: Path) -> Any:
    """PyAV's container of a file with a video stream. Raises InvalidInputError where there is none, OSError."""
    fix = "give a video that FFmpeg can play, such as MP4 with H.264"
    path.stat()  # an OSError names the reason in the system's words
    try:
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except (av.FFmpegError, UnicodeError) as error:
        message = "the video can not be opened: " + getattr(error, "strerror", str(error))
        raise InvalidInputError(message, field="data", value=path, fix=fix) from error
    if container.streams.best("video") is None:
        container.close()
        raise InvalidInputError("no video in the file", field="data", value=path, fix=fix)
    return container


def _frames(packet: Any) -> list[av.VideoFrame]:
    try:
        return list(packet.decode())
    except av.FFmpegError:
        return []
