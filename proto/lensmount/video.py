"""Video files as access units: demuxed here, decoded by the server.

Nothing is transcoded. H.264 and H.265 leave as Annex B byte streams (ITU-T H.264 and
H.265, annex B), one access unit a packet, whatever the container stored. A raw stream
without timestamps gets them from a nominal rate, in decoding order: where it has
B-frames, the times of neighbouring frames are exchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from lensmount.errors import InvalidInputError, LensmountError, MissingExtraError

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer

Codec = Literal["h264", "h265"]

# FFmpeg's names of the codecs, and a key picture's first bytes in each.
_CODECS: dict[str, Codec] = {"h264": "h264", "hevc": "h265"}
_KEY_PICTURE = {"h264": b"\x65", "h265": b"\x26\x01"}
_START = b"\x00\x00\x01"


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One H.264 or H.265 access unit as an Annex B byte stream.

    Times are nanoseconds from the stream's zero; `extradata` holds the parameter sets
    (Annex B) of a stream whose packets do not carry them, and counts on the first unit.
    """

    codec: Codec
    data: bytes
    pts_ns: int
    dts_ns: int
    extradata: bytes = b""


def access_units(path: str | os.PathLike[str], fps: float = 25.0) -> Iterator[AccessUnit]:
    """The access units of a file's first video stream in decoding order, read as they are asked for.

    `fps` is the nominal rate of a stream without timestamps. Raises InvalidInputError when the
    file can not be read or holds another codec, MissingExtraError without PyAV.
    """
    av = _pyav()
    try:
        with closing(av.open(os.fspath(path))) as container:
            yield from _demux(av, container, path, fps)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _demux(av: ModuleType, container: InputContainer, path: str | os.PathLike[str], fps: float) -> Iterator[AccessUnit]:
    stream = _video_stream(container, path)
    codec = _CODECS[stream.codec_context.name]
    annex_b = av.bitstream.BitStreamFilterContext(f"{stream.codec_context.name}_mp4toannexb", stream)
    times = _Clock(stream, fps)
    extradata: bytes | None = None
    for packet in container.demux(stream):
        for unit in annex_b.filter(packet):
            data = bytes(unit)
            if extradata is None:
                extradata = b"" if has_parameter_sets(codec, data) else _parameter_sets(av, stream, codec)
            yield AccessUnit(codec, data, *times(unit), extradata)


def has_parameter_sets(codec: Codec, data: bytes) -> bool:
    """Whether an Annex B packet carries a sequence parameter set."""
    kinds = (nal[0] for nal in data.split(_START)[1:] if nal)
    if codec == "h264":
        return any(kind & 0x1F == 7 for kind in kinds)
    return any((kind >> 1) & 0x3F == 33 for kind in kinds)


def _parameter_sets(av: ModuleType, stream: VideoStream, codec: Codec) -> bytes:
    """The container's parameter sets as Annex B.

    The filter writes them in front of every key picture, so it is asked with an empty one.
    """
    stored = stream.codec_context.extradata or b""
    if not stored or stored.startswith((_START, b"\x00" + _START)):
        return stored
    length_size = (stored[4 if codec == "h264" else 21] & 3) + 1
    picture = _KEY_PICTURE[codec]
    annex_b = av.bitstream.BitStreamFilterContext(f"{stream.codec_context.name}_mp4toannexb", stream)
    (answer,) = annex_b.filter(av.Packet(len(picture).to_bytes(length_size, "big") + picture))
    return bytes(answer).removesuffix(_START + picture)


class _Clock:
    """Presentation and decoding time of each packet, in nanoseconds from the stream's first picture.

    What a container leaves out is the nominal time where it tells none at all, else the
    decoding time before (Matroska tells none for the first pictures).
    """

    def __init__(self, stream: VideoStream, fps: float) -> None:
        self._tick = stream.time_base or Fraction(1, 90_000)
        self._zero = stream.start_time or 0
        self._frame_ns = 1e9 / fps
        self._count = 0
        self._dts: int | None = None

    def __call__(self, packet: Packet[VideoStream]) -> tuple[int, int]:
        nominal = round(self._count * self._frame_ns)
        self._count += 1
        pts = self._ns(packet.pts)
        dts = self._ns(packet.dts)
        if dts is None:
            dts = nominal if pts is None else min(pts, pts if self._dts is None else self._dts)
        self._dts = dts
        return dts if pts is None else pts, dts

    def _ns(self, ticks: int | None) -> int | None:
        return None if ticks is None else round((ticks - self._zero) * self._tick * 1_000_000_000)


def _video_stream(container: InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    if not container.streams.video:
        raise InvalidInputError("holds no video", field="frames", value=path, fix="give a file with a video stream")
    stream = container.streams.video[0]
    if stream.codec_context.name not in _CODECS:
        message = (
            f"{os.fspath(path)} is coded as {stream.codec_context.name}; only H.264 and H.265 are sent as they are"
        )
        fix = f"ffmpeg -i {os.fspath(path)} -c:v libx264 clip.mp4, or decode it yourself and give the frames as arrays"
        raise InvalidInputError(message, field="frames", value=stream.codec_context.name, fix=fix)
    return stream


def _pyav() -> ModuleType:
    try:
        import av.bitstream  # noqa: PLC0415 - an extra: only those who send files need it
    except ModuleNotFoundError as error:
        message = "reading video files needs the extra 'video'"
        raise MissingExtraError(message, field="frames", fix="pip install 'lensmount[video]'") from error
    return av


def _unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> LensmountError:
    fix = "give the path of a video file; a camera is for `lensmount sources add`"
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInputError(f"can not be read as video: {reason}", field="frames", value=path, fix=fix)
