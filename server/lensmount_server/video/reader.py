"""Frames out of an address, in whatever thread asks for them: what every reader offers, and the one over FFmpeg.

Nothing here waits for ever: FFmpeg gets time limits for opening and for reading. For
reading it takes twice what it is given, so it is given half.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from fractions import Fraction
from threading import Event
from typing import Protocol

import av
from av.video.stream import VideoStream

from lensmount_server.frames import Frame
from lensmount_server.video.address import Address
from lensmount_server.video.clock import CameraClock
from lensmount_server.video.decoder import PictureDecoder
from lensmount_server.video.effort import Thrift
from lensmount_server.video.errors import BrokenStreamError, CannotOpenError
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.opening import SILENT, Opened, never, opened, words
from lensmount_server.video.settings import Effort, Pace
from lensmount_server.video.timeline import Pacer, Timeline

__all__ = ["BrokenStreamError", "CannotOpenError", "Reader", "ReaderOptions", "VideoReader"]

_NS = 1_000_000_000
_HIGHEST_RATE = 1000


class Reader(Protocol):
    """Reads one address once: all its frames, until it ends or `stop` is called."""

    @property
    def broken(self) -> int:
        """Packets or pictures so far that could not be decoded."""
        ...

    @property
    def skipped(self) -> int:
        """Packets so far that were not decoded, because nobody needs their pictures."""
        ...

    @property
    def codec(self) -> str:
        """How its pictures are coded, "h264" for example; "" while that is unknown."""
        ...

    def want(self, max_fps: float) -> None:
        """Says the highest rate that a task wants, 0: every picture; what is more need not be decoded. Any thread."""
        ...

    def frames(self) -> Generator[Frame]:
        """Frames until the end. Raises a LensmountError that says why there are no more."""
        ...

    def stop(self) -> None:
        """Makes `frames` return soon; from any thread."""
        ...


class VideoReader:
    """Reads one address through FFmpeg.

    A camera is read as it sends. A recording is read at its own pace (or as fast as its frames are taken: Pace.FAST)
    and, with `loop`, again and again: indices keep counting and times keep rising. Of several video streams
    FFmpeg's best one is taken (marked as default, else more pictures, else more bits).
    `effort` and `max_fps`, the highest rate that a task wants, decide which pictures are decoded.
    """

    def __init__(
        self,
        address: Address,
        *,
        loop: bool = False,
        pace: Pace = Pace.REALTIME,
        options: ReaderOptions | None = None,
        timeline: Timeline | None = None,
        effort: Effort = Effort.AUTO,
        max_fps: float = 0.0,
    ) -> None:
        self._address = address
        self._loop = loop
        self._options = options or ReaderOptions()
        self._timeline = timeline or Timeline()
        self._stop = Event()
        self._pacer = Pacer(self._stop) if pace is Pace.REALTIME else None
        self._clock = CameraClock(address.shown)
        self._decoder: PictureDecoder | None = None
        self._broken_before = 0
        self._codec = ""
        self._skipped_before = 0
        self._effort = effort
        self._max_fps = max_fps
        self._thrift = Thrift(effort, max_fps)

    @property
    def broken(self) -> int:
        """Packets so far that could not be decoded."""
        return self._broken_before + (self._decoder.broken if self._decoder is not None else 0)

    @property
    def skipped(self) -> int:
        """Packets so far that were left out because no task needs their pictures."""
        return self._skipped_before + (self._decoder.skipped if self._decoder is not None else 0)

    def want(self, max_fps: float) -> None:
        """Sets the highest rate that a task wants, 0: every picture. From any thread."""
        self._max_fps = self._thrift.max_fps = max_fps

    def stop(self) -> None:
        """Makes `frames` return soon: at once between two packets, else when the peer's time is up."""
        self._stop.set()

    @property
    def codec(self) -> str:
        """FFmpeg's name of how its pictures are coded; "" before it is open."""
        return self._codec

    def frames(self) -> Generator[Frame]:
        """Frames until the recording ends or `stop` is called.

        Raises InvalidInputError for what can never work, TooLargeError for pictures beyond
        the limits, CannotOpenError, and BrokenStreamError (a camera that ends its stream
        included).
        """
        while not self._stop.is_set():
            before = self._timeline.frames
            with opened(self._address, self._options, self._stop) as source:
                yield from self._read(source)
            if self._stop.is_set():
                return
            if not source.recorded:
                raise self._broken("the camera ended the stream")
            if self._timeline.frames == before:
                raise never(self._address, "no picture in it can be decoded")
            if not self._loop:
                return

    def _read(self, source: Opened) -> Iterator[Frame]:
        stream = source.container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise never(self._address, "there is no video in it")
        self._codec = stream.codec_context.name
        self._options.limits.check(max(stream.width, 1), max(stream.height, 1))
        self._broken_before, self._skipped_before = self.broken, self.skipped
        self._thrift = Thrift(self._effort)
        self._thrift.max_fps = self._max_fps  # read after whoever wants another rate can reach it
        self._decoder = PictureDecoder(stream.codec_context, self._options.limits, self._thrift)
        self._timeline.begin(step_ns(stream.average_rate))
        try:
            for packet in source.container.demux(stream):
                if self._stop.is_set():
                    return
                yield from self._decode(self._decoder, packet, recorded=source.recorded)
        except av.FFmpegError as error:
            raise self._why_broken(error) from error

    def _decode(self, decoder: PictureDecoder, packet: av.Packet[VideoStream], *, recorded: bool) -> Iterator[Frame]:
        arrival_ns = time.time_ns()
        taken_ns = arrival_ns if recorded else self._clock.stamp(packet, arrival_ns)
        for decoded in decoder.decode(packet if packet.size else None, taken_ns):
            index, pts_ns = self._timeline.place(decoded.pts_ns)
            capture_time_ns = decoded.capture_time_ns
            if recorded:
                if self._pacer is not None:
                    self._pacer.wait(pts_ns)
                capture_time_ns = time.time_ns()
            if self._stop.is_set():
                return
            yield Frame(decoded.picture, index, pts_ns, capture_time_ns, decoded.decode_ms)

    def _why_broken(self, error: av.FFmpegError) -> BrokenStreamError:
        silent = f"nothing came for {self._options.silence_s:g} s"
        return self._broken(silent if isinstance(error, SILENT) else words(error))

    def _broken(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(why, field="url", value=self._address.shown, fix="check the camera and the network")


def step_ns(rate: Fraction | None) -> int:
    """Nanoseconds from frame to frame at a rate that a header claims; a rate that can not be counts as 25 a second."""
    return int(_NS / rate) if rate and 0 < rate <= _HIGHEST_RATE else _NS // 25
