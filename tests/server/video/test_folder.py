from __future__ import annotations

import os
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from lensmount.errors import InvalidInputError
from lensmount_server.frames import Frame
from lensmount_server.video.address import parse_address
from lensmount_server.video.folder import FolderReader, natural
from lensmount_server.video.limits import PictureLimits, ReaderOptions
from lensmount_server.video.open import open_reader
from lensmount_server.video.policy import AddressPolicy
from lensmount_server.video.settings import Pace
from opened import pixels_of
from videos import ANYWHERE, NS, number_of, numbered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0 to 11 in four formats, in an order that the alphabet gets wrong."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(12):
        ending = ("png", "jpg", "bmp", "WEBP")[number % 4]
        Image.fromarray(numbered(number)).save(place / f"shot {number}.{ending}")
    return place


def reader(folder: Path, *, fps: str = "50", loop: bool = False, pace: Pace = Pace.FAST) -> FolderReader:
    source = open_reader(parse_address(f"folder:{folder}?fps={fps}", ANYWHERE), loop=loop, pace=pace)
    assert isinstance(source, FolderReader)
    return source


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(pixels_of(frame.picture)) for frame in frames]


def test_pictures_come_in_the_order_of_their_numbers(folder: Path) -> None:
    source = reader(folder)
    frames = list(source.frames())
    assert numbers(frames) == list(range(12))
    assert [frame.pts_ns for frame in frames] == [number * NS // 50 for number in range(12)]
    assert (source.broken, source.skipped, source.codec) == (0, 0, "webp")


def test_they_are_read_at_their_rate(folder: Path) -> None:
    for pace, least, most in ((Pace.REALTIME, 0.5, 5), (Pace.FAST, 0, 0.5)):
        started = time.monotonic()
        assert len(list(reader(folder, fps="20", pace=pace).frames())) == 12
        assert least <= time.monotonic() - started < most


def test_one_picture_a_second_is_the_default(folder: Path) -> None:
    frames = list(open_reader(parse_address(f"folder:{folder}", ANYWHERE), pace=Pace.FAST).frames())
    assert frames[1].pts_ns == NS


def test_a_loop_sees_new_pictures(folder: Path) -> None:
    frames = reader(folder, loop=True).frames()
    assert numbers(list(islice(frames, 12))) == list(range(12))
    Image.fromarray(numbered(200)).save(folder / "shot 99.png")
    later = list(islice(frames, 13))
    assert [frame.index for frame in later] == list(range(12, 25))
    frames.close()
    frames = reader(folder, loop=True).frames()
    assert numbers(list(islice(frames, 13)))[12] == 200
    frames.close()


def test_bad_pictures_are_counted_and_passed(folder: Path, tmp_path: Path) -> None:
    (folder / "shot 0.png").write_bytes(b"no picture")
    (folder / "shot 2.bmp").write_bytes((folder / "shot 2.bmp").read_bytes()[:99])
    (folder / "shot 4.png").unlink()
    os.mkfifo(folder / "shot 4.png")  # nobody writes: reading it would wait for ever
    (folder / "shot 5.jpg").unlink()
    (folder / "shot 5.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "notes.txt").write_text("not a picture by its name: not looked at")
    source = reader(folder)
    assert numbers(list(source.frames())) == [1, 3, *range(6, 12)]
    assert source.broken == 4


def test_a_link_out_of_the_folders_is_not_followed(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(numbered(77)).save(tmp_path / "secret.png")
    (folder / "shot 20.png").symlink_to(tmp_path / "secret.png")
    for policy, broken in ((AddressPolicy(folders=(folder,)), 1), (AddressPolicy(folders=(tmp_path,)), 0)):
        source = open_reader(parse_address(f"folder:{folder}", policy), pace=Pace.FAST)
        assert (77 in numbers(list(source.frames()))) is (broken == 0)
        assert source.broken == broken


def test_pictures_beyond_the_limits_are_counted(folder: Path) -> None:
    options = ReaderOptions(limits=PictureLimits(max_side=319))
    source = open_reader(parse_address(f"folder:{folder}", ANYWHERE), pace=Pace.FAST, options=options)
    with pytest.raises(InvalidInputError, match="no picture in it can be decoded"):
        list(source.frames())
    assert source.broken == 12


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no pictures in it"):
        list(reader(tmp_path).frames())


def test_a_folder_without_a_good_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="no picture in it can be decoded"):
        list(reader(tmp_path, loop=True).frames())


def test_a_folder_that_has_gone(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    source = reader(place)
    place.rmdir()
    with pytest.raises(InvalidInputError, match="can not be read"):
        list(source.frames())


def test_it_stops_when_asked(folder: Path) -> None:
    source = reader(folder, fps="0.1", pace=Pace.REALTIME)
    thread = threading.Thread(target=lambda: list(source.frames()))
    thread.start()
    time.sleep(0.2)
    source.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_natural_order() -> None:
    names = ["10.png", "9.png", "a2b10", "a2b9", "a", "007", "7a"]
    assert sorted(names, key=natural) == ["007", "7a", "9.png", "10.png", "a", "a2b9", "a2b10"]
