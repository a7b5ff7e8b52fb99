"""Streams that are not as they should be: sizes and times that change, headers that lie, files that are none."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame
from lensmount_server.video.address import parse_address
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.video.reader import ReaderOptions, VideoReader, step_ns
from lensmount_server.video.settings import Pace
from opened import pixels_of
from videos import ANYWHERE, NS, clip, encode, number_of, numbered, write_clip


def reader(path: Path, *, pace: Pace = Pace.FAST, loop: bool = False) -> VideoReader:
    return VideoReader(parse_address(str(path), ANYWHERE), pace=pace, loop=loop, options=ReaderOptions(1.0))


def sizes(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((frame.picture.width, frame.picture.height) for frame in frames))


def write_with_times(path: Path, times_ms: Sequence[int]) -> Path:
    """A Matroska file of numbered key frames that claim these times, one packet after the other."""
    packets, extradata = encode([numbered(number) for number in range(len(times_ms))], options={"g": "1"})
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for coded, time_ms in zip(packets, times_ms, strict=True):
            packet = av.Packet(coded.data)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = time_ms
            packet.is_keyframe = True
            container.mux_one(packet)
    assert extradata is not None
    return path


def test_a_stream_that_grows_from_720p_to_1080p(tmp_path: Path) -> None:
    coded = b""
    for start, (width, height) in ((0, (1280, 720)), (6, (1920, 1080)), (12, (1280, 720))):
        packets, _ = encode([numbered(number, width, height) for number in range(start, start + 6)])
        coded += b"".join(packet.data for packet in packets)
    path = tmp_path / "grows.h264"
    path.write_bytes(coded)
    frames = list(reader(path).frames())
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == list(range(18))
    assert [(frame.picture.width, frame.picture.height) for frame in frames[5:7]] == [(1280, 720), (1920, 1080)]


def test_a_real_stream_that_changes_its_size() -> None:
    frames = list(reader(clip("test_res_change.h264")).frames())
    assert len(frames) == 96
    assert len(sizes(frames)) == 2


@pytest.mark.parametrize(
    "times_ms",
    [
        [number * 40 for number in range(10)],
        [0, 40, 80, 3_600_080, 3_600_120, 3_600_160, 3_600_200, 3_600_240, 3_600_280, 3_600_320],
        [0, 40, 40, 40, 80, 80, 120, 160, 160, 200],
        [0] * 10,
    ],
)
@pytest.mark.parametrize("pace", Pace)
def test_times_that_jump_lose_no_frame_and_stop_nobody(tmp_path: Path, times_ms: list[int], pace: Pace) -> None:
    path = write_with_times(tmp_path / "a.mkv", times_ms)
    started = time.monotonic()
    frames = list(reader(path, pace=pace).frames())
    assert time.monotonic() - started < 5
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == list(range(10))
    times = [frame.pts_ns for frame in frames]
    assert times == sorted(set(times))
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert min(steps) >= 10_000_000  # a task's rate counts on this time: it must go on


def test_times_that_go_back_lose_no_frame_and_stop_nobody(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.ts", 20, b_frames=0).read_bytes()
    path = tmp_path / "a.ts"
    path.write_bytes(part * 3)
    started = time.monotonic()
    frames = list(reader(path, pace=Pace.REALTIME).frames())
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == [*range(20)] * 3
    assert 0.8 <= time.monotonic() - started < 5
    assert all(later.pts_ns - earlier.pts_ns >= 10_000_000 for earlier, later in pairwise(frames))


@pytest.mark.parametrize("rate", [None, Fraction(0), Fraction(-25), Fraction(90_000), Fraction(10**9)])
def test_a_rate_that_can_not_be_counts_as_25(rate: Fraction | None) -> None:
    assert step_ns(rate) == NS // 25


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30_000, 1001), Fraction(1, 60), Fraction(240)])
def test_a_rate_that_can_be_is_taken(rate: Fraction) -> None:
    assert step_ns(rate) == int(NS / rate)


def test_a_raw_stream_without_times_plays_at_some_rate(tmp_path: Path) -> None:
    packets, _ = encode([numbered(number) for number in range(10)])
    path = tmp_path / "a.h264"
    path.write_bytes(b"".join(packet.data for packet in packets))
    times = [frame.pts_ns for frame in reader(path).frames()]
    assert times == sorted(set(times))
    assert 9 * NS // 100 <= times[-1] <= 9 * NS


@pytest.mark.parametrize("ending", ["mkv", "ts"])
def test_a_file_that_breaks_off_gives_what_it_has(tmp_path: Path, ending: str) -> None:
    path = write_clip(tmp_path / f"a.{ending}", 60, b_frames=0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = list(reader(path).frames())
    assert 10 <= len(frames) < 60
    numbers = [number_of(pixels_of(frame.picture)) for frame in frames[:10]]
    assert numbers == list(range(10))


def test_garbage_in_the_middle_costs_some_frames_only(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", 120, b_frames=0)
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 2000] = os.urandom(2000)
    path.write_bytes(data)
    frames = list(reader(path).frames())
    assert 60 <= len(frames) <= 120
    assert number_of(pixels_of(frames[-1].picture)) == 119


def test_fast_is_fast_and_stamps_arrival(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 40, fps=10)  # four seconds
    before, started = time.time_ns(), time.monotonic()
    frames = list(reader(path, pace=Pace.FAST).frames())
    assert time.monotonic() - started < 2
    assert frames[-1].pts_ns == 39 * NS // 10  # its own time is kept
    assert all(before <= frame.capture_time_ns <= time.time_ns() for frame in frames)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<!doctype html><html><body>Log in</body></html>"),
        ("notes.txt", b"hello\n" * 500),
        ("empty.mp4", b""),
        ("one.mp4", b"\0"),
        ("random.ts", os.urandom(50_000)),
        ("a.h264", b"\0\0\0\1" * 100),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\na.ts\n"),
        ("picture.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF"),
    ],
)
def test_files_that_are_no_videos(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        list(reader(path).frames())
    assert caught.value.value == str(path)
    assert caught.value.fix


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 3)
    source = reader(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidInputError, match="not a regular file any more"):
        list(source.frames())


def test_a_file_that_becomes_a_link_out_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    path = write_clip(tmp_path / "open" / "a.mp4", 3)
    address = parse_address(str(path), AddressPolicy(folders=(tmp_path / "open",)))
    path.rename(tmp_path / "b.mp4")
    path.symlink_to(tmp_path / "b.mp4")
    with pytest.raises(InvalidInputError, match="not open to sources"):
        list(VideoReader(address).frames())
