"""Frames out of a file or a camera, in whatever thread asks for them.

Nothing here waits for ever: FFmpeg gets time limits for opening and for reading. For
reading it takes twice what it is given, so it is given half.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from lensmount.errors import InvalidInputError, LensmountError, UnavailableError
from lensmount_server.frames import Frame
from lensmount_server.video.address import Address
from lensmount_server.video.decoder import PictureDecoder
from lensmount_server.video.effort import Thrift
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.settings import Effort
from lensmount_server.video.timeline import Pacer, Timeline

_NS = 1_000_000_000
_LOCKED = (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)
_SILENT = (av.error.ExitError, av.error.TimeoutError)
_UNREADABLE = (av.error.InvalidDataError, av.error.ArgumentError)
_FOREIGN = "not a video file of a kind that this server reads"


class CannotOpenError(UnavailableError):
    """The camera or file can not be opened now; later it may."""


class BrokenStreamError(UnavailableError):
    """It was open, and then no more frames could be had."""


@dataclass(frozen=True)
class ReaderOptions:
    """Seconds until a silent peer is given up, and the largest picture."""

    silence_s: float = 10.0
    limits: PictureLimits = field(default_factory=PictureLimits)


class VideoReader:
    """Reads one address.

    A camera is read as it sends. A file is read at its own pace and, with `loop`, again
    and again: indices keep counting and times keep rising. Of several video streams
    FFmpeg's best one is taken (marked as default, else more pictures, else more bits).
    `effort` and `max_fps`, the highest rate that a task wants, decide which pictures are decoded.
    """

    def __init__(
        self,
        address: Address,
        *,
        loop: bool = False,
        options: ReaderOptions | None = None,
        timeline: Timeline | None = None,
        effort: Effort = Effort.AUTO,
        max_fps: float = 0.0,
    ) -> None:
        self._address = address
        self._loop = loop and not address.live
        self._options = options or ReaderOptions()
        self._timeline = timeline or Timeline()
        self._stop = Event()
        self._pacer = Pacer(self._stop)
        self._decoder: PictureDecoder | None = None
        self._broken_before = 0
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

    def frames(self) -> Generator[Frame]:
        """Frames until the file ends or `stop` is called.

        Raises InvalidInputError for what can never work, TooLargeError for pictures beyond
        the limits, CannotOpenError, and BrokenStreamError (a camera that ends its stream
        included).
        """
        while not self._stop.is_set():
            before = self._timeline.frames
            with closing(self._open()) as container:
                yield from self._read(container)
            if self._stop.is_set():
                return
            if self._address.live:
                raise self._broken("the camera ended the stream")
            if self._timeline.frames == before:
                raise self._never("no picture in it can be decoded")
            if not self._loop:
                return

    def _open(self) -> InputContainer:
        silence_s = self._options.silence_s
        options = {**self._address.options, "max_pixels": str(self._options.limits.max_pixels)}
        if self._address.live:
            options["timeout"] = str(round(silence_s * 1e6))
        try:
            return av.open(self._address.url, "r", options=options, timeout=(silence_s, silence_s / 2))
        except av.FFmpegError as error:
            raise self._why_not_open(error) from error

    def _read(self, container: InputContainer) -> Iterator[Frame]:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise self._never("there is no video in it")
        self._options.limits.check(max(stream.width, 1), max(stream.height, 1))
        self._broken_before, self._skipped_before = self.broken, self.skipped
        self._thrift = Thrift(self._effort)
        self._thrift.max_fps = self._max_fps  # read after whoever wants another rate can reach it
        self._decoder = PictureDecoder(stream.codec_context, self._options.limits, self._thrift)
        self._timeline.begin(_step_ns(stream))
        try:
            for packet in container.demux(stream):
                if self._stop.is_set():
                    return
                yield from self._decode(self._decoder, packet if packet.size else None)
        except av.FFmpegError as error:
            raise self._why_broken(error) from error

    def _decode(self, decoder: PictureDecoder, packet: av.Packet[VideoStream] | None) -> Iterator[Frame]:
        for decoded in decoder.decode(packet, time.time_ns()):
            index, pts_ns = self._timeline.place(decoded.pts_ns)
            capture_time_ns = decoded.capture_time_ns
            if not self._address.live:
                self._pacer.wait(pts_ns)
                capture_time_ns = time.time_ns()
            if self._stop.is_set():
                return
            yield Frame(decoded.picture, index, pts_ns, capture_time_ns, decoded.decode_ms)

    def _why_not_open(self, error: av.FFmpegError) -> LensmountError:
        if not self._address.live:
            return self._never(_FOREIGN if isinstance(error, _UNREADABLE) else _words(error))
        if isinstance(error, _LOCKED):
            return self._never(_words(error))
        silent = isinstance(error, (*_SILENT, *_UNREADABLE))  # FFmpeg calls an answer that never came invalid data
        why = f"no RTSP answer within {self._options.silence_s:g} s" if silent else _words(error)
        return CannotOpenError(why, field="url", value=self._address.shown, fix="check that it is up and reachable")

    def _why_broken(self, error: av.FFmpegError) -> BrokenStreamError:
        silent = f"nothing came for {self._options.silence_s:g} s"
        return self._broken(silent if isinstance(error, _SILENT) else _words(error))

    def _broken(self, why: str) -> BrokenStreamError:
        return BrokenStreamError(why, field="url", value=self._address.shown, fix="check the camera and the network")

    def _never(self, why: str) -> InvalidInputError:
        return InvalidInputError(why, field="url", value=self._address.shown, fix="play it with ffplay to see it fail")


def _words(error: av.FFmpegError) -> str:
    return error.strerror or type(error).__name__


def _step_ns(stream: VideoStream) -> int:
    rate = stream.average_rate
    return int(_NS / rate) if rate else _NS // 25
