"""What a packet says of its picture before it is decoded.

H.264 and H.265 write in the first bytes of each slice whether other pictures refer to it
(`nal_ref_idc`: Rec. ITU-T H.264, 7.4.1; NAL unit types: Rec. ITU-T H.265, table 7-1).
FFmpeg's own flag for it (`is_disposable`) is not set for H.264 from files or cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

_CODECS = ("h264", "hevc")
_START = b"\0\0\1"
# Parameter sets and messages in front of a picture are rarely longer; only so much is copied at first.
_SHORT = 4096


@dataclass(frozen=True)
class Glimpse:
    """`key`: it refers to no other picture; `clean`: nor does any picture that is shown after it, to one before it.

    `referred`: others may refer to it. `pts_ns` is when it is shown.
    """

    key: bool
    clean: bool
    referred: bool
    pts_ns: int | None


class Glimpser:
    """Looks at the packets of one stream. What a codec does not say counts as referred to."""

    def __init__(self, context: VideoCodecContext) -> None:
        self._codec = context.codec.name
        self._intra_only = context.codec.intra_only
        self._length_size = _length_size(context.extradata or b"", self._codec)
        self._deepest = 0
        self._groups = 0

    def look(self, packet: Packet[Stream] | Packet[VideoStream]) -> Glimpse | None:
        """What can be told of it without decoding; None where it holds no part of a picture (parameter sets alone)."""
        pts_ns = None if packet.pts is None else int(packet.pts * packet.time_base * 1_000_000_000)
        if self._intra_only:
            return Glimpse(key=True, clean=True, referred=False, pts_ns=pts_ns)
        if self._codec not in _CODECS:
            return Glimpse(packet.is_keyframe, packet.is_keyframe, referred=True, pts_ns=pts_ns)
        header = self._slice_header(packet)
        if header is None:
            return None
        if self._codec == "h264":
            clean = header[0] & 0x1F == 5
            return Glimpse(packet.is_keyframe or clean, clean, bool(header[0] & 0x60), pts_ns)
        return self._h265(header, pts_ns)

    def _h265(self, header: bytes, pts_ns: int | None) -> Glimpse:
        kind, layer = header[0] >> 1 & 0x3F, header[1] & 7
        key = 16 <= kind <= 23
        self._groups += key
        self._deepest = max(self._deepest, layer)
        # Even types below 16 are referred to by no picture of their temporal layer; deeper layers still might.
        idle = kind < 16 and kind % 2 == 0 and layer >= self._deepest and self._groups > 1
        return Glimpse(key, key, not idle, pts_ns)

    def _slice_header(self, packet: Packet[Stream] | Packet[VideoStream]) -> bytes | None:
        """Two bytes of the first NAL unit with a part of a picture."""
        data = memoryview(packet)
        place = self._next(data, 0)
        while place is not None and place + 2 <= len(data):
            kind = data[place] & 0x1F if self._codec == "h264" else data[place] >> 1 & 0x3F
            if (1 <= kind <= 5) if self._codec == "h264" else kind < 32:
                return bytes(data[place : place + 2])
            place = self._next(data, place)
        return None

    def _next(self, data: memoryview, place: int) -> int | None:
        """Where the NAL unit after `place` begins; at 0, the first one."""
        size = self._length_size
        if not size:
            found = bytes(data[place : place + _SHORT]).find(_START)
            found = found if found >= 0 else bytes(data[place:]).find(_START)
            return None if found < 0 else place + found + len(_START)
        if place:
            place += int.from_bytes(data[place - size : place], "big")
        return place + size


def _length_size(extradata: bytes, codec: str) -> int:
    """Bytes of the length before each NAL unit (ISO/IEC 14496-15, avcC and hvcC); 0: Annex B start codes."""
    where = {"h264": 4, "hevc": 21}.get(codec, 0)
    return (extradata[where] & 3) + 1 if len(extradata) > where and where and extradata[0] == 1 else 0
