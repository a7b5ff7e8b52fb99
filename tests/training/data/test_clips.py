"""Intervals of videos become frames; threads that ask in any order get theirs, and few decoders are open."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_training.data import Entry, Listing, reading, video
from lensmount_training.data.clips import is_clips, list_clips, milliseconds, seconds
from lensmount_training.data.colours import rgb
from lensmount_training.data.decoding import Pass
from lensmount_training.data.video import Videos
from lensmount_training.progress import NoProgress
from videos import clip, number_of, write_clip

FPS = 50


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds whose frames show their numbers."""
    return write_clip(tmp_path_factory.mktemp("clips") / "line.mp4", 200, fps=FPS)


def listed(line: Path, rows: str, every: float = 1.0, header: str = "video,start,end,label") -> Listing:
    path = line.parent / "labels.csv"
    path.write_text(f"{header}\n{rows}\n")
    return list_clips(path, every)


def names(listing: Listing) -> list[str]:
    return [entry.file for entry in listing.entries]


def shown(entry: Entry) -> int:
    return number_of(entry.read().decode())


def test_frames_of_intervals(line: Path) -> None:
    listing = listed(line, "line.mp4,2,4,full\nline.mp4,0.5,1.7,empty", 0.5)
    assert (listing.form, listing.kind, listing.labels) == ("clips", "single_label", ("empty", "full"))
    assert [(entry.file, entry.labels, entry.group) for entry in listing.entries] == [
        ("line.mp4#t=0.5", ("empty",), "line.mp4#t=0.5,1.7"),
        ("line.mp4#t=1", ("empty",), "line.mp4#t=0.5,1.7"),
        ("line.mp4#t=1.5", ("empty",), "line.mp4#t=0.5,1.7"),
        ("line.mp4#t=2", ("full",), "line.mp4#t=2,4"),
        ("line.mp4#t=2.5", ("full",), "line.mp4#t=2,4"),
        ("line.mp4#t=3", ("full",), "line.mp4#t=2,4"),
        ("line.mp4#t=3.5", ("full",), "line.mp4#t=2,4"),
    ]
    assert {entry.source for entry in listing.entries} == {"line.mp4"}
    assert [shown(entry) for entry in listing.entries] == [25, 50, 75, 100, 125, 150, 175]


def test_a_group_of_its_own(line: Path) -> None:
    listing = listed(line, "line.mp4,0,1,a,morning\nline.mp4,1,2,b,", header="video,start,end,label,group")
    assert [entry.group for entry in listing.entries] == ["morning", "line.mp4#t=1,2"]


def test_a_moment_is_one_frame_and_a_short_interval_too(line: Path) -> None:
    listing = listed(line, "line.mp4,1.5,1.5,a\nline.mp4,2,2.1,b")
    assert names(listing) == ["line.mp4#t=1.5", "line.mp4#t=2"]


def test_steps_do_not_drift(line: Path) -> None:
    listing = listed(line, "line.mp4,0,4,a\nline.mp4,3.999,4,b", 0.1)
    assert names(listing)[:40] == [f"line.mp4#t={place / 10:g}" for place in range(40)]
    thirds = listed(line, "line.mp4,0,2,a\nline.mp4,3,4,b", 0.333)
    assert names(thirds)[:7] == ["line.mp4#t=" + t for t in ("0", "0.333", "0.666", "0.999", "1.332", "1.665", "1.998")]


def test_several_labels(line: Path) -> None:
    listing = listed(line, "line.mp4,0,1,a;b\nline.mp4,1,2,b\nline.mp4,2,3,")
    assert listing.kind == "multi_label"
    assert [entry.labels for entry in listing.entries] == [("a", "b"), ("b",), ()]


def test_a_list_in_json(line: Path) -> None:
    items = [
        {"video": "line.mp4", "start": 0, "end": 1.0, "label": "a", "group": None},
        {"video": "line.mp4", "start": "00:00:01.5", "end": "0:02", "label": "b", "group": 7},
    ]
    (line.parent / "labels.json").write_text(json.dumps(items))
    listing = list_clips(line.parent / "labels.json")
    assert listing.kind == "single_label"
    assert [(entry.file, entry.labels, entry.group) for entry in listing.entries] == [
        ("line.mp4#t=0", ("a",), "line.mp4#t=0,1"), ("line.mp4#t=1.5", ("b",), "7"),
    ]  # fmt: skip
    items[0]["label"] = ["a", "b"]
    items[1]["label"] = []
    (line.parent / "labels.json").write_text(json.dumps(items))
    several = list_clips(line.parent / "labels.json")
    assert several.kind == "multi_label"
    assert [entry.labels for entry in several.entries] == [("a", "b"), ()]


def test_what_can_not_be_used_is_skipped_with_a_reason(line: Path) -> None:
    (line.parent / "text.mp4").write_text("no video")
    rows = [
        "line.mp4,0,1,a",
        "line.mp4,1,2,b",
        "gone.mp4,0,1,a",
        "text.mp4,0,1,a",
        "line.mp4,3,2,a",
        "line.mp4,x,2,a",
        "line.mp4,2,-1,a",
        "line.mp4,4,5,a",
        "line.mp4,2,3,",
        "line.mp4,2,3",
        "../line.mp4,2,3,a",
    ]
    listing = listed(line, "\n".join(rows))
    assert names(listing) == ["line.mp4#t=0", "line.mp4#t=1"]
    reasons = [(skip.file, skip.reason.partition(": ")[0]) for skip in listing.skipped]
    assert reasons == [
        ("labels.csv:11", "3 cells in the row, 4 columns"),
        ("gone.mp4 0-1", "no such file"),
        ("text.mp4 0-1", "the video can not be opened"),
        ("line.mp4 3-2", "it ends before it begins"),
        ("line.mp4 x-2", "no time"),
        ("line.mp4 2--1", "no time"),
        ("line.mp4 4-5", "the video ends at 4 s"),
        ("line.mp4 2-3", "no label"),
        ("../line.mp4 2-3", "outside of the folder of the index"),
    ]


def test_an_interval_ends_with_its_video(line: Path) -> None:
    listing = listed(line, "line.mp4,0,1,a\nline.mp4,3,9999999,b", 0.5)
    assert names(listing)[-2:] == ["line.mp4#t=3", "line.mp4#t=3.5"]


def test_intervals_that_overlap(line: Path) -> None:
    listing = listed(line, "line.mp4,0,2,a\nline.mp4,1,3,a\nline.mp4,2,4,b")
    assert names(listing) == ["line.mp4#t=0", "line.mp4#t=1", "line.mp4#t=3"]
    assert [(skip.file, skip.reason) for skip in listing.skipped] == [
        ("line.mp4#t=1", "named 2 times, used once"),
        ("line.mp4#t=2", "named 2 times with different labels: a / b"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "it names no pictures"),
        ("gone.mp4,0,1,a", "none of the 1 it names can be used"),
    ],
)
def test_indices_that_can_not_be_used(line: Path, rows: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        listed(line, rows)
    assert caught.value.field == "data"
    assert caught.value.fix


@pytest.mark.parametrize(
    "items", [{"a": 1}, [{"video": "line.mp4"}], [5], [{"video": 1, "start": [], "end": 2, "label": "a"}]]
)
def test_json_that_can_not_be_used(tmp_path: Path, items: Any) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(items))
    with pytest.raises(InvalidInputError, match="not a list of intervals") as caught:
        list_clips(tmp_path / "labels.json")
    assert caught.value.field == "data"


@pytest.mark.parametrize("every", [0, -1, 0.0001, float("nan"), float("inf")])
def test_steps_that_can_not_be_followed(line: Path, every: float) -> None:
    with pytest.raises(InvalidInputError) as caught:
        listed(line, "line.mp4,0,1,a", every)
    assert caught.value.field == "every"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0), ("12.5", 12_500), (" 7 ", 7000), ("1:02", 62_000), ("00:01:02.500", 62_500), ("1:00:00", 3_600_000),
        ("00:00:01,250", 1250), ("90:00", 5_400_000), ("12.", 12_000), ("0.0004", 0), ("123456.789", 123_456_789),
        ("", None), ("-1", None), ("1e3", None), ("nan", None), ("1:2:3:4", None), ("x", None), ("1:", None),
        ("\u0663", None),
    ],
)  # fmt: skip
def test_times(text: str, wanted: int | None) -> None:
    assert milliseconds(text) == wanted


@given(st.integers(0, 10**9))
def test_times_come_back(time_ms: int) -> None:
    assert milliseconds(seconds(time_ms)) == time_ms


def test_columns_tell_it() -> None:
    assert is_clips(("video", "start", "end", "label"))
    assert is_clips(("Group", "Video", "Start", "End", "Class"))
    assert not is_clips(("video", "start", "label"))
    assert not is_clips(("file", "label"))


def test_digests_name_video_and_time(line: Path, tmp_path: Path) -> None:
    listing = listed(line, "line.mp4,0,2,a\nline.mp4,2,4,b")
    digests = [entry.read().digest for entry in listing.entries]
    assert len(set(digests)) == 4
    (tmp_path / "renamed.mp4").write_bytes(line.read_bytes())
    again = listed(tmp_path / "renamed.mp4", "renamed.mp4,0,2,a\nrenamed.mp4,2,4,b")
    assert [entry.read().digest for entry in again.entries] == digests


def test_a_video_is_hashed_once(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []
    digest = video.hashlib.file_digest  # type: ignore[attr-defined]

    def counting(file: object, name: str) -> object:
        hashed.append(file)
        return digest(file, name)

    monkeypatch.setattr(video.hashlib, "file_digest", counting)  # type: ignore[attr-defined]
    for entry in listed(line, "line.mp4,0,2,a\nline.mp4,2,4,b", 0.1).entries:
        entry.read()
    assert len(hashed) == 1


def test_a_video_that_changed_is_not_decoded(line: Path, tmp_path: Path) -> None:
    path = tmp_path / "line.mp4"
    path.write_bytes(line.read_bytes())
    contents = [entry.read() for entry in listed(path, "line.mp4,0,2,a\nline.mp4,2,4,b").entries]
    os.utime(path, (1, 1))
    with pytest.raises(InvalidInputError, match="changed while it was read"):
        contents[0].decode()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        contents[1].decode()


def decode_all(entries: Sequence[Entry], threads: int = reading.THREADS) -> list[int]:
    contents = [entry.read() for entry in entries]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda content: number_of(content.decode()), contents))


@pytest.mark.parametrize("seed", range(3))
def test_threads_get_their_frames_in_any_order(line: Path, seed: int) -> None:
    entries = list(listed(line, "line.mp4,0,2,a\nline.mp4,2,4,b", 0.02).entries)
    assert decode_all(entries) == list(range(200))
    random.Random(seed).shuffle(entries)
    assert decode_all(entries[:40]) == [milliseconds(entry.file.partition("=")[2]) // 20 for entry in entries[:40]]  # type: ignore[operator]


def test_times_that_come_nearly_in_order_are_one_pass(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads overtake one another; nobody goes back for that."""
    leaps: list[int] = []
    leap = Pass._leap

    def counting(way: Pass, time_ms: int) -> None:
        leaps.append(time_ms)
        leap(way, time_ms)

    monkeypatch.setattr(Pass, "_leap", counting)
    entries = list(listed(line, "line.mp4,0,2,a\nline.mp4,2,4,b", 0.02).entries)
    for place in range(0, 200, 4):
        entries[place : place + 4] = random.Random(place).sample(entries[place : place + 4], 4)
    numbers = [milliseconds(entry.file.partition("=")[2]) for entry in entries]
    assert decode_all(entries, threads=1) == [number // 20 for number in numbers if number is not None]
    assert leaps == []


def open_files(path: Path) -> int:
    return sum(os.readlink(f"/proc/self/fd/{each}") == str(path) for each in os.listdir("/proc/self/fd") if _open(each))  # noqa: PTH115, PTH208


def _open(number: str) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")  # noqa: PTH110


def test_a_decoder_is_closed_when_its_last_frame_was_taken(line: Path, tmp_path: Path) -> None:
    own = tmp_path / "line.mp4"
    own.write_bytes(line.read_bytes())
    entries = listed(own, "line.mp4,0,2,a\nline.mp4,2,3,b", 0.5).entries
    decode_all(entries[:-1])
    assert open_files(own) == 1
    decode_all(entries[-1:])
    assert open_files(own) == 0
    assert shown(entries[1]) == 25, "it is opened again for whoever looks once more"


def test_few_decoders_are_open(line: Path, tmp_path: Path) -> None:
    videos = Videos()
    paths = [tmp_path / f"{number}.mp4" for number in range(video.OPEN + 4)]
    for path in paths:
        path.write_bytes(line.read_bytes())
    for turn in range(2):
        for path in paths:
            own = videos.get(path)
            own.wanted = range(0, 4000, 20)
            assert number_of(own.picture(1000 * turn + 500)) == 50 * turn + 25
            assert sum(map(open_files, paths)) <= video.OPEN
    with ThreadPoolExecutor(4) as pool:
        numbers = list(
            pool.map(lambda each: number_of(videos.get(each[1]).picture(20 * each[0])), enumerate(paths * 5))
        )
    assert numbers == list(range(5 * len(paths)))


def test_few_frames_wait_to_be_asked_for(line: Path) -> None:
    own = Videos().get(line)
    own.wanted = range(0, 4000, 20)
    own.picture(900)
    assert len(own._ready) == video.READY
    assert number_of(own.picture(880)) == 44
    assert len(own._ready) == video.READY - 1
    own.close()


def test_frames_are_read_like_pictures_fresh_and_cached(line: Path, tmp_path: Path) -> None:
    preprocessing = random_backbone("test_vit").preprocessing
    rows = "line.mp4,0,2,a\nline.mp4,2,4,b"
    fresh = reading.read(listed(line, rows, 0.1), preprocessing, tmp_path / "cache", NoProgress())
    cached = reading.read(listed(line, rows, 0.1), preprocessing, tmp_path / "cache", NoProgress())
    assert len(fresh.pictures) == 40
    assert {picture.group for picture in fresh.pictures} == {"line.mp4#t=0,2", "line.mp4#t=2,4"}
    assert np.array_equal(fresh.rows[:], cached.rows[:])
    for place, picture in enumerate(fresh.pictures):
        assert number_of(fresh.original(picture.file)) == 5 * place


def test_a_real_clip_against_one_plain_pass(tmp_path: Path) -> None:
    path = clip("bottle_h265_gop30_b3.mp4")
    (tmp_path / "labels.csv").write_text("video,start,end,label\nbottle.mp4,1,3,a\nbottle.mp4,6.3,8,b\n")
    (tmp_path / "bottle.mp4").write_bytes(path.read_bytes())
    listing = list_clips(tmp_path / "labels.csv", 0.25)
    contents = [entry.read() for entry in listing.entries]
    with ThreadPoolExecutor(reading.THREADS) as pool:
        pixels = list(pool.map(lambda content: content.decode(), contents))
    times = [Fraction(entry.file.partition("=")[2]) for entry in listing.entries]
    last = None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            while times and last is not None and frame.time is not None and frame.time > times[0]:
                assert np.array_equal(pixels.pop(0), rgb(last))
                times.pop(0)
            last = frame
    assert not times
