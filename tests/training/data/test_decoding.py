"""What a video shows at a time does not depend on the way there, and its colours are those that were meant."""

from __future__ import annotations

import random
from bisect import bisect_right
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lensmount.errors import InvalidInputError, TooLargeError
from lensmount_adapters import pictures
from lensmount_adapters.pictures import Pixels
from lensmount_server.video.picture import DecodedPicture
from lensmount_training.data import decoding
from lensmount_training.data.colours import rgb
from lensmount_training.data.decoding import Pass
from videos import clip, flat, number_of, write_clip, write_two_streams

BT709, UNSPECIFIED, BT601 = 1, 2, 6
SILENT, LIMITED, FULL = 0, 1, 2


def at(way: Pass, time_ms: int) -> av.VideoFrame:
    for _ in way.go_to(time_ms):
        pass
    return way.frame


def all_frames(path: Path, limit: int = 1000) -> list[tuple[Fraction, Pixels]]:
    """The first frames in one pass of a decoder with one thread: milliseconds, pixels of the luma."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        stream.codec_context.thread_count = 1
        frames: Any = islice(container.decode(stream), limit)
        return [(frame.pts * frame.time_base * 1000, luma(frame)) for frame in frames]


def luma(frame: av.VideoFrame) -> Pixels:
    return np.array(frame.to_ndarray(format="gray"), dtype=np.uint8)


@pytest.mark.parametrize("name", ["bottle-detection.mp4", "bottle_h265_gop30_b3.mp4", "nasa_13013.mp4"])
def test_a_frame_is_the_same_whichever_way_it_is_reached(name: str) -> None:
    """Forwards, back, in leaps and anew: frames of real clips with B-frames, to the bit."""
    path = clip(name)
    truth = all_frames(path, 400)
    starts = [start for start, _ in truth]
    draw = random.Random(0)
    times = [draw.randrange(int(starts[-1])) for _ in range(5)]
    way = Pass(path)
    for time_ms in [*times, *sorted(times), *sorted(times, reverse=True), 0]:
        place = bisect_right(starts, time_ms) - 1
        frame = at(way, time_ms)
        assert way.start == starts[place]
        assert np.array_equal(luma(frame), truth[place][1])
    way.close()


@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_last_frame_at_or_before_a_time(tmp_path: Path, b_frames: int) -> None:
    way = Pass(write_clip(tmp_path / "clip.mp4", 100, fps=50, b_frames=b_frames))
    for time_ms, number in ((0, 0), (19, 0), (20, 1), (39, 1), (1000, 50), (999, 49), (1999, 99), (500, 25)):
        assert number_of(rgb(at(way, time_ms))) == number
    way.close()


def test_what_is_passed_is_given_on_the_way(tmp_path: Path) -> None:
    way = Pass(write_clip(tmp_path / "clip.mp4", 10, fps=50))
    passed = list(way.go_to(70))
    assert [(int(start), int(end), number_of(rgb(frame))) for start, end, frame in passed] == [
        (0, 20, 0), (20, 40, 1), (40, 60, 2),
    ]  # fmt: skip
    assert number_of(rgb(way.frame)) == 3
    way.close()


def test_an_open_group_of_pictures_is_not_entered_in_its_middle(tmp_path: Path) -> None:
    """B-frames before a key frame refer to the group before it: reached by a leap, they would be ruins."""
    path = tmp_path / "open.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"}
        noise = np.random.default_rng(0)
        for number in range(100):
            pixels = np.full((48, 64, 3), 2 * number, np.uint8) + noise.integers(0, 9, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    truth = all_frames(path)
    for place in range(len(truth) - 1, -1, -3):
        way = Pass(path)
        assert np.array_equal(luma(at(way, int(truth[place][0]))), truth[place][1])
        way.close()


def test_a_recording_that_was_joined_in_its_middle_begins_with_a_key_frame(tmp_path: Path) -> None:
    """FFmpeg's MPEG-4 decoder gives what lies before it, too: differences to pictures that never came."""
    whole, joined = tmp_path / "whole.ts", tmp_path / "joined.ts"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data, packet = whole.read_bytes(), 188
    joined.write_bytes(data[: 3 * packet] + data[len(data) // 2 // packet * packet :])
    with av.open(str(joined)) as container:
        assert not next(container.decode(video=0)).key_frame
    way = Pass(joined)
    assert at(way, 0).key_frame
    way.close()


def test_frames_that_nobody_wants_are_leapt_over(monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip("bottle_h265_gop30_b3.mp4")
    decoded = 0
    frames = decoding._frames

    def counting(packet: object) -> list[av.VideoFrame]:
        nonlocal decoded
        found = frames(packet)
        decoded += len(found)
        return found

    monkeypatch.setattr(decoding, "_frames", counting)
    way = Pass(path)
    at(way, 9500)
    assert decoded < 120
    decoded = 0
    for time_ms in range(9500, 9900, 100):
        at(way, time_ms)
    assert decoded < 40, "in order there is no way back"
    way.close()


def test_beyond_the_end(tmp_path: Path) -> None:
    way = Pass(write_clip(tmp_path / "clip.mp4", 10, fps=50))
    assert number_of(rgb(at(way, 199))) == 9
    with pytest.raises(InvalidInputError, match=r"ends at 0\.20 s"):
        at(way, 200)
    with pytest.raises(InvalidInputError, match="ends at"):
        at(way, 100_000)
    assert number_of(rgb(at(way, 50))) == 2
    way.close()


def test_a_file_that_breaks_off_is_good_until_there(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mkv", 100, fps=50)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    way = Pass(cut)
    assert number_of(rgb(at(way, 200))) == 10
    with pytest.raises(InvalidInputError, match="ends at"):
        at(way, 1990)
    way.close()


def test_damaged_packets_stop_nothing() -> None:
    way = Pass(clip("corrupted.mp4"))
    assert rgb(at(way, 1000)).shape[2] == 3
    way.close()


def test_a_video_without_times_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="does not say when") as caught:
        Pass(clip("test_res_change.h264"))
    assert "MP4" in caught.value.fix


@pytest.mark.parametrize(
    "content", [b"", b"not a video", b"\0" * 1000, b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n"]
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"can not be opened|no video") as caught:
        Pass(tmp_path / "clip.mp4")
    assert caught.value.field == "data"
    assert caught.value.fix


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no video in the file"):
        Pass(write_clip(tmp_path / "sound.mp4", audio=True))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Pass(tmp_path / "clip.mp4")


def test_pictures_beyond_the_limits_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "clip.mp4", 5)
    monkeypatch.setattr(pictures, "MAX_SIDE", 100)
    with pytest.raises(TooLargeError):
        Pass(path)


def test_of_several_streams_the_largest_is_taken(tmp_path: Path) -> None:
    way = Pass(write_two_streams(tmp_path / "two.mp4", (64, 48), (320, 240)))
    assert rgb(at(way, 0)).shape == (240, 320, 3)
    way.close()
    way = Pass(clip("nasa_13013.mp4"))
    assert rgb(at(way, 1000)).shape == (270, 480, 3)
    way.close()


@pytest.mark.parametrize(
    "name",
    ["bt709_full_range.mp4", "bottle-detection.mp4", "h265_10bits.mp4", "bottle_h265_gop30_b3.mp4", "nasa_13013.mp4"],
)
def test_training_sees_the_colours_that_the_server_sees(name: str) -> None:
    way = Pass(clip(name))
    frame = at(way, 500)
    assert np.array_equal(rgb(frame), DecodedPicture(frame).pixels)
    way.close()


def test_a_full_range_clip_of_bt_709() -> None:
    """By the equations of ITU-T H.273 from the planes, chroma taken from the nearest value."""
    way = Pass(clip("bt709_full_range.mp4"))
    frame = at(way, 500)
    way.close()
    assert frame.color_range == FULL
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width]
        .astype(float)
        for plane in frame.planes
    )
    blue, red = (plane.repeat(2, 0).repeat(2, 1) - 128 for plane in (u, v))
    wanted = np.stack((y + 1.5748 * red, y - 0.1873 * blue - 0.4681 * red, y + 1.8556 * blue), 2).clip(0, 255)
    difference = np.abs(rgb(frame) - wanted)
    assert difference.mean() < 2
    limited = ((y - 16) * 255 / 219)[:, :, None] + (wanted - y[:, :, None]) * 255 / 224
    assert np.abs(rgb(frame) - limited.clip(0, 255)).mean() > 4, "the measure tells the ranges apart"


@pytest.mark.parametrize(("height", "matrix"), [(718, BT601), (720, BT709)])
@pytest.mark.parametrize(("said", "meant"), [(SILENT, LIMITED), (FULL, FULL), (LIMITED, LIMITED)])
def test_one_colour_by_the_equations(height: int, matrix: int, said: int, meant: int) -> None:
    kr, kb = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114)}[matrix]
    red, green, blue = 200 / 255, 100 / 255, 50 / 255
    luma_value = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma_value) / (2 * (1 - kb)), (red - luma_value) / (2 * (1 - kr))
    floor, span, chroma_span = (0, 255, 255) if meant == FULL else (16, 219, 224)
    yuv = [round(floor + span * luma_value), *(round(128 + chroma_span * part) for part in chroma)]
    for given in (matrix, UNSPECIFIED):
        pixels = rgb(flat(yuv, 64, height, matrix=given, colour_range=said))
        assert pixels.shape == (height, 64, 3)
        assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 3


def turned(path: Path, degrees: int) -> Path:
    """The display matrix in the track header, counterclockwise as FFmpeg counts."""
    matrix = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}[degrees]
    a, b, c, d = ((value * 0x10000).to_bytes(4, "big", signed=True) for value in matrix)
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 40
    zero, one = bytes(4), (0x40000000).to_bytes(4, "big")
    path.write_bytes(data[:place] + a + b + zero + c + d + zero + zero + zero + one + data[place + 36 :])
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_phone_that_was_held_upright(tmp_path: Path, degrees: int) -> None:
    way = Pass(write_clip(tmp_path / "lying.mp4", 5))
    lying = rgb(at(way, 20))
    assert number_of(lying) == 1  # bars that look otherwise from each side
    way.close()
    way = Pass(turned(tmp_path / "lying.mp4", degrees))
    frame = at(way, 20)
    assert np.array_equal(rgb(frame), np.rot90(lying, degrees // 90))
    assert np.array_equal(rgb(frame), DecodedPicture(frame).pixels)
    assert rgb(frame).flags.c_contiguous
    way.close()
