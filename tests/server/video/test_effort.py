from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lensmount_server.scheduling.rates import Turns
from lensmount_server.video.decoder import PictureDecoder
from lensmount_server.video.effort import Thrift, Verdict
from lensmount_server.video.limits import PictureLimits
from lensmount_server.video.nal import Glimpse, Glimpser
from lensmount_server.video.settings import Effort
from opened import pixels_of
from videos import clip

FPS = 30
NS = 1_000_000_000
STEP_NS = NS // FPS


def glimpse(place: int, *, key: bool = False, referred: bool = True) -> Glimpse:
    return Glimpse(key, key, referred, place * STEP_NS)


def group(start: int, length: int, shape: str, seed: int) -> Iterator[Glimpse]:
    """A group of pictures in decoding order.

    `ippp`: all are referred to. `svc`: every other one. `b`: up to four B-frames between anchors, the middle
    one of them referred to.
    """
    yield glimpse(start, key=True)
    place, chance = start + 1, random.Random(seed)
    while place < start + length:
        count = min(chance.randint(0, 4) if shape == "b" else 0, start + length - 1 - place)
        yield glimpse(place + count, referred=shape != "svc" or place % 2 == 0)
        middle = place + count // 2
        if count > 1:
            yield glimpse(middle)
        for between in range(place, place + count):
            if between != middle or count == 1:
                yield glimpse(between, referred=False)
        place += count + 1


def groups(lengths: list[int], shape: str, seed: int = 0) -> list[Glimpse]:
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    return [
        each
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
        for each in group(start, length, shape, seed + number)
    ]


def decoded(packets: list[Glimpse], thrift: Thrift) -> list[Glimpse]:
    return [packet for packet in packets if thrift.judge(packet) is Verdict.DECODE]


def taken(packets: list[Glimpse], max_fps: float) -> int:
    turns = Turns(max_fps)
    return sum(turns.take(pts_ns) for pts_ns in sorted(each.pts_ns or 0 for each in packets))


def is_whole(packets: list[Glimpse], kept: list[Glimpse]) -> bool:
    """Whether every decoded picture has all it may refer to: what is referred to, since the last key frame."""
    missing = False
    for packet in packets:
        missing = (missing or packet.referred) if packet not in kept else missing and not packet.key
        if packet in kept and missing:
            return False
    return True


shapes = st.sampled_from(["ippp", "svc", "b"])


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 60), st.integers(4, 30), shapes, st.floats(0.3, 30), st.integers(0, 99))
def test_groups_of_one_length_give_every_task_its_rate(
    length: int, count: int, shape: str, max_fps: float, seed: int
) -> None:
    packets = groups([length] * count, shape, seed)
    kept = decoded(packets, Thrift(Effort.AUTO, max_fps))
    assert is_whole(packets, kept)
    seconds = length * count / FPS
    assert taken(kept, max_fps) >= int(seconds * max_fps) - 1
    assert taken(kept, max_fps) >= taken(packets, max_fps) - 1
    slow = max_fps / 2.3  # a task that wants less finds its pictures among those
    assert taken(kept, slow) >= int(seconds * slow) - 1


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=30), shapes, st.floats(0.3, 30), st.integers(0, 99))
def test_groups_of_any_length_lose_a_gap_for_each_one_mistaken(
    lengths: list[int], shape: str, max_fps: float, seed: int
) -> None:
    packets, thrift = groups(lengths, shape, seed), Thrift(Effort.AUTO, max_fps)
    kept = decoded(packets, thrift)
    assert is_whole(packets, kept)
    period = NS / max_fps + STEP_NS / 2
    times = sorted(each.pts_ns or 0 for each in kept)
    gaps = [(later - earlier) for earlier, later in pairwise(times)]
    mistakes = sum(gap > max(period, STEP_NS * 1.5) for gap in gaps)
    assert mistakes <= 1 + len(lengths) // 4
    assert all(gap <= 90 * STEP_NS for gap in gaps)


def test_a_thrift_that_takes_every_picture_for_unreferred_is_found_out() -> None:
    """The negative control of both properties' check of references, and one that looks too far of their rate."""
    packets = groups([30] * 6, "b")
    careless = decoded([replace(each, referred=each.key) for each in packets], Thrift(Effort.AUTO, 5.0))
    assert not is_whole(packets, [each for each in packets if each.pts_ns in {one.pts_ns for one in careless}])
    assert taken(decoded(packets, Thrift(Effort.AUTO, 2.0)), 5.0) < int(6 * 5.0) - 1


@pytest.mark.parametrize(
    ("shape", "max_fps", "share"),
    [
        ("ippp", 0.0, 1.0), ("ippp", 30.0, 1.0), ("ippp", 5.0, 0.84), ("ippp", 2.0, 0.55), ("ippp", 1.0, 0.05),
        ("svc", 5.0, 0.47), ("svc", 20.0, 1.0), ("b", 5.0, 0.55), ("b", 1.0, 0.05), ("b", 30.0, 1.0),
    ],
)  # fmt: skip
def test_no_more_is_decoded_than_needed(shape: str, max_fps: float, share: float) -> None:
    packets = groups([30] * 40, shape)
    later = packets[4 * 30 :]  # after the first groups have told their length
    thrift = Thrift(Effort.AUTO, max_fps)
    decoded(packets[: 4 * 30], thrift)
    assert len(decoded(later, thrift)) / len(later) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(("effort", "count"), [(Effort.ALL, 120), (Effort.REFERENCE, 60), (Effort.KEY, 4)])
def test_an_effort_that_is_asked_for_holds_whatever_the_rate(effort: Effort, count: int) -> None:
    for max_fps in (0.0, 1.0, 30.0):
        kept = decoded(groups([30] * 4, "svc"), Thrift(effort, max_fps))
        assert len(kept) == count


def test_a_rate_may_rise_at_any_time() -> None:
    packets, thrift = groups([30] * 20, "ippp"), Thrift(Effort.AUTO, 1.0)
    before = decoded(packets[:310], thrift)
    thrift.max_fps = 0.0
    after = decoded(packets[310:], thrift)
    assert len(before) < 120
    assert [each.pts_ns for each in after] == [each.pts_ns for each in packets[330:]]  # from the next key frame on
    assert is_whole(packets, before + after)


def test_a_codec_of_nothing_but_key_frames_is_thinned() -> None:
    packets = [Glimpse(key=True, clean=True, referred=False, pts_ns=number * STEP_NS) for number in range(300)]
    kept = decoded(packets, Thrift(Effort.AUTO, 5.0))
    assert len(kept) <= 62
    assert taken(kept, 5.0) >= 49
    assert len(decoded(packets, Thrift(Effort.KEY, 5.0))) == 300


def test_without_timestamps_everything_is_decoded() -> None:
    packets = [replace(each, pts_ns=None) for each in groups([30] * 6, "b")]
    assert decoded(packets, Thrift(Effort.AUTO, 1.0)) == packets


def test_a_clock_that_starts_again_is_followed() -> None:
    packets, thrift = groups([30] * 8, "b"), Thrift(Effort.AUTO, 5.0)
    first, second = decoded(packets, thrift), decoded(packets, thrift)
    assert is_whole(packets, second)
    assert taken(second, 5.0) >= 39
    assert len(second) == pytest.approx(len(first), abs=40)


# With real streams: every picture that comes is the one that a full decode gives.


@dataclass(frozen=True)
class Recipe:
    codec: str = "libx264"
    options: str = ""
    gop: int = 12

    def __str__(self) -> str:
        return f"{self.codec} g={self.gop} {self.options}"


RECIPES = [
    Recipe(),
    Recipe(gop=250),
    Recipe(options="tune=zerolatency"),
    Recipe(options="x264-params=b-pyramid=strict:bframes=5"),
    Recipe(options="x264-params=open-gop=1:scenecut=0:bframes=3:b-adapt=0"),
    Recipe(options="x264-params=intra-refresh=1:bframes=0"),
    Recipe(options="x264-params=slices=4:bframes=2"),
    Recipe("libx265", "x265-params=log-level=none:bframes=4:b-pyramid=1:open-gop=0:scenecut=0"),
    Recipe("libx265", "x265-params=log-level=none:bframes=3:open-gop=1"),
    Recipe("libx265", "x265-params=log-level=none:temporal-layers=2:bframes=3:b-adapt=0"),
    Recipe("mpeg4", "bf=2"),
    Recipe("mjpeg"),
]


def write(path: Path, recipe: Recipe, frames: int = 72) -> Path:
    texture = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(recipe.codec, rate=FPS)
        stream.width, stream.height = 320, 176
        stream.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
        stream.options = dict(each.split("=", 1) for each in recipe.options.split()) | {"g": str(recipe.gop)}
        for number in range(frames):
            shot = np.ascontiguousarray(texture[number % 40 : number % 40 + 176, number : number + 320])
            frame = av.VideoFrame.from_ndarray(shot, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pictures(path: Path, thrift: Thrift) -> tuple[dict[int, NDArray[np.uint8]], PictureDecoder]:
    """By their time, what a decoder gives of a file, in order."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        decoder = PictureDecoder(stream.codec_context, PictureLimits(), thrift)
        out = [
            (each.pts_ns, pixels_of(each.picture))
            for packet in container.demux(stream)
            for each in decoder.decode(packet if packet.size else None, 1)
        ]
    times = [pts_ns or 0 for pts_ns, _ in out]
    assert times == sorted(set(times))
    return dict(zip(times, (pixels for _, pixels in out), strict=True)), decoder


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_what_is_decoded_is_what_a_full_decode_gives(tmp_path: Path, recipe: Recipe, suffix: str) -> None:
    if suffix == "ts" and recipe.codec not in ("libx264", "libx265"):
        pytest.skip("not for this container")
    path = write(tmp_path / f"a.{suffix}", recipe)
    whole, _ = pictures(path, Thrift(Effort.ALL))
    for thrift in (
        *(Thrift(Effort.AUTO, max_fps) for max_fps in (1.0, 3.0, 5.0, 12.0, 25.0)),
        Thrift(Effort.REFERENCE),
        Thrift(Effort.KEY),
    ):
        some, decoder = pictures(path, thrift)
        assert len(some) + decoder.skipped == len(whole) or "intra-refresh" in recipe.options
        assert decoder.broken == 0
        assert all((pixels == whole[pts_ns]).all() for pts_ns, pixels in some.items())


@pytest.mark.parametrize("name", ["bottle-detection.mp4", "bottle_h265_gop30_b3.mp4"])
def test_real_clips(name: str) -> None:
    whole, _ = pictures(clip(name), Thrift(Effort.ALL))
    some, decoder = pictures(clip(name), Thrift(Effort.AUTO, 5.0))
    assert decoder.skipped > 0.4 * len(whole)
    assert len(some) + decoder.skipped == len(whole)
    assert all((pixels == whole[pts_ns]).all() for pts_ns, pixels in some.items())


def test_pictures_without_what_they_refer_to_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: pictures are left out whether others refer to them or not."""
    path = write(tmp_path / "a.mp4", RECIPES[0])
    whole, _ = pictures(path, Thrift(Effort.ALL))
    look = Glimpser.look

    def careless(self: Glimpser, packet: Any) -> Glimpse:
        glimpse = look(self, packet)
        assert glimpse is not None
        return replace(glimpse, referred=packet.size % 2 > 0)

    monkeypatch.setattr(Glimpser, "look", careless)
    some, _ = pictures(path, Thrift(Effort.REFERENCE))
    assert any((pixels != whole[pts_ns]).any() for pts_ns, pixels in some.items())


@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_key_frames_alone_come_at_once(tmp_path: Path, name: str) -> None:
    """They are not held back for pictures that never come."""
    path = write(tmp_path / "a.mp4", Recipe(name, gop=12))
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        decoder = PictureDecoder(stream.codec_context, PictureLimits(), Thrift(Effort.KEY))
        packets = [packet for packet in container.demux(stream) if packet.size]
        came = [len(decoder.decode(packet, 1)) for packet in packets]
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    assert len(keys) >= 6
    assert [place for place, count in enumerate(came) if count] == [place + 1 for place in keys]
