"""Compressed packets in, pictures out, in presentation order.

Threads, where there are several, work on the slices of one picture, never on several pictures at once, so a
stream without B-frames comes out packet by packet; one with B-frames is held back
by exactly the depth that its headers announce. FFmpeg's low_delay flag is not set:
it gains nothing over that and reorders streams whose headers are silent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
from av.codec.context import ThreadType
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame
from lensmount_server.video.effort import Thrift, Verdict
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.nal import Glimpser
from lensmount_server.video.picture import DecodedPicture

Codec = Literal["h264", "h265"]

_DECODERS: dict[str, Literal["h264", "hevc"]] = {"h264": "h264", "h265": "hevc"}
# Slices of large pictures are decoded side by side. For smaller ones two threads cost 2 to 5 % more than one.
_LARGE, _THREADS = 1920 * 1088, 2
# More than a long group of pictures at 25 frames a second: a stream joined in its middle gets the time to begin.
_PACKETS_WITHOUT_PICTURE = 256
_NS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class Decoded:
    """What came out for a packet: a picture, its own time if it has one, and the arrival time of its packet."""

    picture: DecodedPicture
    pts_ns: int | None
    capture_time_ns: int
    decode_ms: float


class PictureDecoder:
    """Drives one FFmpeg decoder; with a `thrift`, only for the packets that it wants decoded.

    `broken` counts the packets that could not be decoded, `skipped` those that were left out.
    """

    def __init__(self, context: VideoCodecContext, limits: PictureLimits, thrift: Thrift | None = None) -> None:
        context.thread_type = ThreadType.SLICE
        context.thread_count = _threads(context)
        context.copy_opaque = True
        context.options = {**context.options, "max_pixels": str(limits.max_pixels)}
        self.context = context
        self.broken = 0
        self.skipped = 0
        self._thrift = thrift
        self._glimpser = Glimpser(context)
        self._time_base = Fraction(0)
        self._limits = limits
        self._known: set[tuple[object, ...]] = set()

    def decode(
        self, packet: av.Packet[Stream] | av.Packet[VideoStream] | None, capture_time_ns: int = 0
    ) -> list[Decoded]:
        """The pictures that are complete after `packet`; None asks for those still held back.

        A packet that is left out gives none, or those held back before it. Each picture carries the capture time
        that came with its own packet. Raises TooLargeError for a picture beyond the limits, before it is decoded.
        """
        verdict = self._judge(packet)
        if verdict is not Verdict.DECODE:
            self.skipped += 1
        if verdict is Verdict.SKIP:
            return []
        started = time.perf_counter()
        if packet is not None:
            packet.opaque = _Stamp(capture_time_ns)
            self._time_base = packet.time_base  # PyAV does not hand it on to the frames of the final flush
        try:
            pictures = self.context.decode(packet if verdict is Verdict.DECODE else None)
            if verdict is Verdict.CLOSE:
                self.context.flush_buffers()
        except av.FFmpegError:
            self._refuse_size()
            self.broken += 1
            return []
        decode_ms = (time.perf_counter() - started) * 1000 / max(len(pictures), 1)
        stamped = [self._stamped(picture, decode_ms) for picture in pictures]
        return [each for each in stamped if each is not None]

    def _judge(self, packet: av.Packet[Stream] | av.Packet[VideoStream] | None) -> Verdict:
        if packet is None or self._thrift is None:
            return Verdict.DECODE
        glimpse = self._glimpser.look(packet)
        return Verdict.DECODE if glimpse is None else self._thrift.judge(glimpse)

    def _stamped(self, frame: av.VideoFrame, decode_ms: float) -> Decoded | None:
        self._limits.check(frame.width, frame.height)
        picture = DecodedPicture(frame)
        if not self._can_be_converted(picture):
            self.broken += 1
            return None
        stamp = frame.opaque
        arrival = stamp.capture_time_ns if isinstance(stamp, _Stamp) else time.time_ns()
        pts_ns = None if frame.pts is None else int(frame.pts * self._time_base * _NS)
        return Decoded(picture, pts_ns, arrival, decode_ms)

    def _can_be_converted(self, picture: DecodedPicture) -> bool:
        """Tried with the first of its kind: whoever converts the others later must not find out."""
        if picture.kind not in self._known:
            try:
                _ = picture.pixels
            except av.FFmpegError:
                return False
            self._known = {picture.kind}
        return True

    def _refuse_size(self) -> None:
        if self.context.width and self.context.height:
            self._limits.check(self.context.width, self.context.height)


class PacketDecoder:
    """Decodes a pushed stream: Annex B, one access unit a packet.

    `codec` is "h264" or "h265"; `extradata` holds parameter sets that the packets do
    not repeat. The resolution may change in mid-stream. Raises InvalidInputError for
    a codec or extradata that can not work.
    """

    def __init__(self, codec: Codec, extradata: bytes = b"", limits: PictureLimits | None = None) -> None:
        self._codec = codec
        self._decoder = PictureDecoder(_open(codec, extradata), limits or PictureLimits())
        self._index = 0
        self._fed = 0

    @property
    def broken(self) -> int:
        """Packets so far that could not be decoded. One that only carries parameter sets does not count."""
        return self._decoder.broken

    def decode(self, data: bytes, pts_ns: int = 0, dts_ns: int = 0, capture_time_ns: int = 0) -> list[Frame]:
        """The frames that are complete after this packet, in presentation order: none, one or several.

        A capture time of 0 means now. A packet that can not be decoded is counted, not
        raised. Raises TooLargeError beyond the limits and InvalidInputError when nothing
        at all could be decoded for 256 packets.
        """
        self._fed += 1
        if not data:  # FFmpeg would take it for the end of the stream
            self._decoder.broken += 1
            return []
        broken = self._decoder.broken
        packet = _packet(data, pts_ns, dts_ns)
        frames = self._number(self._decoder.decode(packet, capture_time_ns or time.time_ns()))
        if self._decoder.broken > broken and _only_parameters(data, self._codec):
            self._decoder.broken = broken
        if self._fed >= _PACKETS_WITHOUT_PICTURE:
            self._refuse_silence()
        return frames

    def flush(self) -> list[Frame]:
        """The frames still held back, at the end of the stream. Raises InvalidInputError if there never was one."""
        frames = self._number(self._decoder.decode(None))
        if self._fed:
            self._refuse_silence()
        return frames

    def _number(self, pictures: list[Decoded]) -> list[Frame]:
        first = self._index
        self._index += len(pictures)
        return [
            Frame(each.picture, first + offset, each.pts_ns or 0, each.capture_time_ns, each.decode_ms)
            for offset, each in enumerate(pictures)
        ]

    def _refuse_silence(self) -> None:
        if not self._index:
            raise InvalidInputError(
                f"no picture in {self._fed} packets: this is not {self._codec.upper().replace('H', 'H.')}",
                field="packet",
                fix="send Annex B access units beginning with a key frame, or name the codec that it really is",
            )


class _Stamp:
    """Rides through FFmpeg with a packet. PyAV keys it by identity, so every packet needs its own object."""

    __slots__ = ("capture_time_ns",)

    def __init__(self, capture_time_ns: int) -> None:
        self.capture_time_ns = capture_time_ns


def _threads(context: VideoCodecContext) -> int:
    pixels = context.width * context.height
    return 1 if 0 < pixels <= _LARGE else _THREADS


def _open(codec: str, extradata: bytes) -> VideoCodecContext:
    name = _DECODERS.get(codec)
    if name is None:
        raise InvalidInputError("unknown codec", field="codec", value=codec, fix=f"use one of {', '.join(_DECODERS)}")
    context = av.CodecContext.create(name, "r")
    if extradata:
        context.extradata = extradata
    return context


def _packet(data: bytes, pts_ns: int, dts_ns: int) -> av.Packet[Stream]:
    packet = av.Packet(len(data))  # FFmpeg reads some bytes past the end: its own buffer has room for that
    packet.update(data)
    packet.pts, packet.dts = pts_ns, dts_ns
    packet.time_base = Fraction(1, _NS)
    return packet


def _only_parameters(data: bytes, codec: str) -> bool:
    """Whether a packet holds NAL units, but none with a part of a picture (H.264 table 7-1, H.265 table 7-1)."""
    position = data.find(b"\0\0\1")
    if position < 0:
        return False
    while 0 <= position < len(data) - 3:
        header = data[position + 3]
        if (1 <= header & 0x1F <= 5) if codec == "h264" else (header >> 1 & 0x3F) < 32:
            return False
        position = data.find(b"\0\0\1", position + 3)
    return True
