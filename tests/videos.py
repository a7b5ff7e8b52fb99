"""Video made for tests: every picture carries its number, or exactly one known colour."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from lensmount_server.video.policy import AddressPolicy

NS = 1_000_000_000
ANYWHERE = AddressPolicy(folders=(Path("/"),))
_ENCODERS = {"h264": "libx264", "h265": "libx265"}
_BITS = 8


@dataclass(frozen=True)
class Packet:
    """A coded access unit in Annex B form."""

    data: bytes
    pts_ns: int
    dts_ns: int


def numbered(number: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """A picture that shows `number` (0 to 255) as eight dark or light bars."""
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 180 + 40, -(-width // _BITS))[:width]
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(pixels: NDArray[np.uint8]) -> int:
    """The number that a decoded picture shows."""
    width = pixels.shape[1]
    centres = [int((bit + 0.5) * -(-width // _BITS)) for bit in range(_BITS)]
    row = pixels[pixels.shape[0] // 2].mean(axis=1)
    return sum(int(row[centre] > 128) << bit for bit, centre in enumerate(centres))


def encode(
    pictures: Iterable[av.VideoFrame | NDArray[np.uint8]],
    codec: str = "h264",
    *,
    b_frames: int = 0,
    fps: int = 25,
    global_header: bool = False,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> tuple[list[Packet], bytes]:
    """Packets of equal-sized pictures and the encoder's extradata."""
    frames = [
        each if isinstance(each, av.VideoFrame) else av.VideoFrame.from_ndarray(each, "rgb24") for each in pictures
    ]
    context: Any = av.CodecContext.create(_ENCODERS[codec], "w")
    context.width, context.height = frames[0].width, frames[0].height
    context.pix_fmt, context.framerate, context.time_base = pixel_format, Fraction(fps), Fraction(1, NS)
    context.colorspace, context.color_range = frames[0].colorspace, frames[0].color_range
    context.options = {"bf": str(b_frames), "g": "12", "preset": "fast", **(options or {})}
    if codec == "h265":
        context.options |= {"x265-params": f"log-level=none:bframes={b_frames}"}
    if global_header:
        context.flags |= av.codec.context.Flags.global_header
    packets = []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index * NS // fps, Fraction(1, NS)
        packets += context.encode(frame)
    packets += context.encode(None)
    coded = [Packet(bytes(packet), packet.pts or 0, packet.dts or 0) for packet in packets]
    return coded, context.extradata or b""


def flat(yuv: Sequence[int], width: int, height: int, *, matrix: int, colour_range: int) -> av.VideoFrame:
    """A yuv420p picture of one colour; `matrix` and `colour_range` are FFmpeg's numbers (2 and 0: it does not say)."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace, frame.color_range = matrix, colour_range
    return frame


def write_clip(
    path: Path,
    count: int = 10,
    *,
    fps: int | Fraction = 50,
    size: tuple[int, int] = (320, 240),
    b_frames: int = 2,
    audio: bool = False,
) -> Path:
    """A video file of numbered pictures; with `audio`, a file with silence and no picture at all."""
    with av.open(str(path), "w") as container:
        if audio:
            _write_silence(container)
        else:
            _write_pictures(container, [(size, b_frames)], count, fps)
    return path


def write_two_streams(path: Path, other: tuple[int, int], default: tuple[int, int]) -> Path:
    """A file with two video streams, of which the second is marked as the default."""
    with av.open(str(path), "w") as container:
        _write_pictures(container, [(other, 0), (default, 0)], 5, 25)
    return path


def _write_pictures(
    container: Any, streams: list[tuple[tuple[int, int], int]], count: int, fps: int | Fraction
) -> None:
    made = []
    for (width, height), b_frames in streams:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"bf": str(b_frames), "g": "12", "preset": "fast"}
        made.append(stream)
        stream.disposition = Disposition.default if len(made) == len(streams) else Disposition(0)
    for number in range(count):
        for stream in made:
            frame = av.VideoFrame.from_ndarray(numbered(number, stream.width, stream.height), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
    for stream in made:
        container.mux(stream.encode(None))


def _write_silence(container: Any) -> None:
    stream = container.add_stream("aac", rate=48_000, layout="mono")
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 48_000, 0
    container.mux([*stream.encode(frame), *stream.encode(None)])


def clip(name: str) -> Path:
    """A clip of the shared test data; skips the test where it is absent."""
    root = os.environ.get("LENSMOUNT_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(root) / "clips" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: set LENSMOUNT_TEST_DATA to a folder that has clips/{name}")
    return path


def annex_b(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """The packets of a file's best video stream as a client would push them: data, pts and dts in nanoseconds."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")
        name = "hevc_mp4toannexb" if stream.codec_context.name == "hevc" else "h264_mp4toannexb"
        convert = av.BitStreamFilterContext(name, stream)
        scale = stream.time_base * NS
        for packet in container.demux(stream):
            for each in convert.filter(packet if packet.size else None):
                yield bytes(each), int((each.pts or 0) * scale), int((each.dts or 0) * scale)
