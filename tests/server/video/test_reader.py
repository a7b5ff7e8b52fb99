from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import pytest

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_server.frames import Frame
from lensmount_server.video.address import parse_address
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.reader import BrokenStreamError, CannotOpenError, ReaderOptions, VideoReader
from lensmount_server.video.settings import Effort
from lensmount_server.video.timeline import Pacer
from rtsp_server import RtspServer, needs_rtsp
from videos import NS, clip, number_of, write_clip, write_two_streams

QUICK = ReaderOptions(silence_s=1.0)


def reader(url: str | Path, *, loop: bool = False, options: ReaderOptions = QUICK) -> VideoReader:
    return VideoReader(parse_address(str(url)), loop=loop, options=options)


def first(count: int, source: VideoReader) -> list[Frame]:
    with closing(source.frames()) as frames:
        return list(islice(frames, count))


@pytest.fixture
def rushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read as fast as they decode."""
    monkeypatch.setattr(Pacer, "wait", lambda _self, _pts_ns: None)


@pytest.fixture
def silent_peer() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_file_gives_every_frame_in_order(tmp_path: Path, rushed: None) -> None:
    source = reader(write_clip(tmp_path / "a.mp4", 20))
    frames = list(source.frames())
    assert [number_of(frame.picture.pixels) for frame in frames] == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.pts_ns for frame in frames] == [number * NS // 50 for number in range(20)]
    assert source.broken == 0


def test_a_file_is_read_at_its_own_pace(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 11, fps=20)
    before = time.time_ns()
    frames = list(reader(path).frames())
    assert time.time_ns() - before >= 0.5 * NS
    ages = [frame.capture_time_ns - before - frame.pts_ns for frame in frames]
    assert min(ages) >= 0  # no frame is captured before it is due


def test_a_loop_keeps_counting(tmp_path: Path, rushed: None) -> None:
    frames = first(25, reader(write_clip(tmp_path / "a.mp4", 10), loop=True))
    assert [number_of(frame.picture.pixels) for frame in frames] == [index % 10 for index in range(25)]
    assert [frame.index for frame in frames] == list(range(25))
    assert [frame.pts_ns for frame in frames] == [index * NS // 50 for index in range(25)]


def test_the_best_of_several_streams_is_taken(tmp_path: Path, rushed: None) -> None:
    frames = first(1, reader(write_two_streams(tmp_path / "a.mp4", (160, 120), (640, 480))))
    assert frames[0].picture.pixels.shape == (480, 640, 3)


@pytest.mark.parametrize("fps", [1, 50])
def test_a_reader_stops_when_asked(tmp_path: Path, fps: int) -> None:
    source = reader(write_clip(tmp_path / "a.mp4", 30, fps=fps), loop=True)
    thread = threading.Thread(target=lambda: list(source.frames()))
    thread.start()
    time.sleep(0.2)
    source.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_reader_leaves_no_file_open(tmp_path: Path, rushed: None) -> None:
    path = write_clip(tmp_path / "a.mp4", 10)
    first(3, reader(path))
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # one call, no objects that hold descriptors
    for _ in range(5):
        first(3, reader(path, loop=True))
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


def times_of(frames: list[Frame]) -> list[int]:
    return [frame.pts_ns for frame in frames]


def test_a_reader_leaves_out_what_no_task_needs(tmp_path: Path, rushed: None) -> None:
    address = parse_address(str(write_clip(tmp_path / "a.mp4", 96)))
    everything = VideoReader(address)
    whole = {frame.pts_ns: frame for frame in everything.frames()}
    assert everything.skipped == 0
    source = VideoReader(address, max_fps=5.0)
    frames = list(source.frames())
    assert source.skipped > 48
    assert len(frames) + source.skipped == 96
    assert max(later - earlier for earlier, later in pairwise(times_of(frames))) <= NS // 5
    assert all((frame.picture.pixels == whole[frame.pts_ns].picture.pixels).all() for frame in frames)
    assert [frame.index for frame in frames] == list(range(len(frames)))


def test_an_effort_is_kept_over_loops(tmp_path: Path, rushed: None) -> None:
    source = VideoReader(parse_address(str(write_clip(tmp_path / "a.mp4", 24))), loop=True, effort=Effort.KEY)
    frames = first(5, source)
    assert [number_of(frame.picture.pixels) for frame in frames] == [0, 8, 16, 0, 8]  # where x264 put key frames
    assert source.skipped > 24


def test_a_rate_that_rises_is_followed_at_once_and_over_loops(tmp_path: Path, rushed: None) -> None:
    source = VideoReader(parse_address(str(write_clip(tmp_path / "a.mp4", 48))), loop=True, max_fps=5.0)
    with closing(source.frames()) as frames:
        list(islice(frames, 30))
        source.want(0.0)
        after = list(islice(frames, 120))
    steps = [later - earlier for earlier, later in pairwise(times_of(after[20:]))]
    assert set(steps) == {NS // 50}


@pytest.mark.parametrize("content", [b"", b"just text\n" * 100, os.urandom(5000)])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError) as caught:
        first(1, reader(path))
    assert caught.value.value == str(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 20)
    path.write_bytes(path.read_bytes()[:-200])  # the index is at the end
    with pytest.raises(InvalidInputError):
        first(1, reader(path))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no video"):
        first(1, reader(write_clip(tmp_path / "a.mp4", audio=True)))


def test_a_file_without_a_single_picture_is_refused(tmp_path: Path, rushed: None) -> None:
    path = write_clip(tmp_path / "a.mp4", 5, b_frames=0)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data[start : data.index(b"moov") - 4])) + data[data.index(b"moov") - 4 :])
    source = reader(path, loop=True)
    with pytest.raises(InvalidInputError, match="no picture"):
        first(1, source)
    assert source.broken > 0


def test_a_file_that_has_gone_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1)
    source = reader(path)
    path.unlink()
    with pytest.raises(InvalidInputError, match="No such file"):
        first(1, source)


@pytest.mark.parametrize(
    ("field", "limits"), [("width", PictureLimits(319)), ("width*height", PictureLimits(400, 999))]
)
def test_pictures_beyond_the_limits_are_refused(tmp_path: Path, field: str, limits: PictureLimits) -> None:
    with pytest.raises(TooLargeError) as caught:
        first(1, reader(write_clip(tmp_path / "a.mp4"), options=ReaderOptions(1.0, limits)))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/x.ts\n"),
        ("local.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile http://127.0.0.1:{port}/x.mp4\n"),
        ("session.sdp", "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)
def test_a_file_can_not_make_the_server_open_others(tmp_path: Path, name: str, text: str) -> None:
    write_clip(tmp_path / "clip.mp4")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / name
        path.write_text(text.format(port=server.getsockname()[1]))
        with pytest.raises(InvalidInputError):
            first(1, reader(path))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_camera_that_is_not_there_may_come() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(CannotOpenError, match="refused"):
        first(1, reader(f"rtsp://me:secret@127.0.0.1:{port}/cam"))


def test_a_peer_that_never_answers_is_given_up(silent_peer: int) -> None:
    started = time.monotonic()
    with pytest.raises(CannotOpenError, match="no RTSP answer within 1 s") as caught:
        first(1, reader(f"rtsp://me:secret@127.0.0.1:{silent_peer}/cam"))
    assert time.monotonic() - started < 60
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "frames", "broken", "shapes"),
    [
        ("corrupted.mp4", 49, 1, {(720, 1280, 3)}),
        ("test_res_change.h264", 96, 0, {(232, 424, 3), (464, 848, 3)}),
        ("h265_10bits.mp4", 30, 0, {(200, 200, 3)}),
        ("bt709_full_range.mp4", 30, 0, {(720, 1280, 3)}),
        ("nasa_13013.mp4", 390, 0, {(270, 480, 3)}),
        ("unordered.mov", 4, 0, {(50, 50, 3)}),
    ],
)
def test_real_clips(rushed: None, name: str, frames: int, broken: int, shapes: set[tuple[int, ...]]) -> None:
    source = reader(clip(name))
    count, seen, times = 0, set(), []
    for frame in source.frames():
        count += 1
        seen.add(frame.picture.pixels.shape)
        times.append(frame.pts_ns)
    assert (count, source.broken, seen) == (frames, broken, shapes)
    assert times == sorted(set(times))


@pytest.mark.rtsp
class TestCamera:
    @pytest.fixture(autouse=True)
    def _server_or_skip(self) -> None:
        needs_rtsp()

    def test_frames_arrive(self) -> None:
        with RtspServer() as server:
            before = time.time_ns()
            frames = first(30, reader(server.url, options=ReaderOptions(20.0)))
        assert [frame.index for frame in frames] == list(range(30))
        steps = [later.pts_ns - earlier.pts_ns for earlier, later in pairwise(frames)]
        assert all(step > 0 for step in steps)
        assert sorted(steps)[15] == pytest.approx(40_000_000, abs=2_000_000)
        assert all(before <= frame.capture_time_ns <= time.time_ns() for frame in frames)
        assert frames[0].picture.pixels.shape == (240, 320, 3)

    def test_b_frames_arrive_in_order(self) -> None:
        with RtspServer("bframes=2 b-adapt=false speed-preset=ultrafast key-int-max=25") as server:
            frames = first(40, reader(server.url, options=ReaderOptions(20.0)))
        steps = [later.pts_ns - earlier.pts_ns for earlier, later in pairwise(frames)]
        assert sorted(steps)[20] == pytest.approx(40_000_000, abs=2_000_000)
        assert max(steps) < 200_000_000

    def test_the_first_frame_does_not_wait_for_the_second_key_frame(self) -> None:
        with RtspServer("tune=zerolatency key-int-max=5000") as server:
            assert len(first(3, reader(server.url, options=ReaderOptions(20.0)))) == 3

    def test_a_camera_that_ends_its_stream_is_a_failure(self) -> None:
        with RtspServer() as server, closing(reader(server.url, options=ReaderOptions(20.0)).frames()) as frames:
            next(frames)
            server.kill()
            with pytest.raises(BrokenStreamError, match="ended"):
                for _ in frames:
                    pass

    def test_a_camera_that_falls_silent_is_given_up(self) -> None:
        with RtspServer() as server, closing(reader(server.url, options=ReaderOptions(4.0)).frames()) as frames:
            next(frames)
            server.freeze()
            started = time.monotonic()
            with pytest.raises(BrokenStreamError, match="nothing came for 4 s"):
                for _ in frames:
                    pass
            assert time.monotonic() - started < 60

    def test_a_wrong_password_will_never_work(self) -> None:
        with RtspServer(login="me:secret") as server:
            where = f"127.0.0.1:{server.port}/cam"
            assert first(1, reader(f"rtsp://me:secret@{where}", options=ReaderOptions(20.0)))
            with pytest.raises(InvalidInputError, match="401") as caught:
                first(1, reader(f"rtsp://me:wrongword@{where}", options=ReaderOptions(20.0)))
            assert "wrongword" not in str(caught.value)
