"""USB cameras. There is none here: a double stands for the device, and a file for OpenCV's own capture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lensmount.errors import TooLargeError
from lensmount_server.video.address import parse_address
from lensmount_server.video.errors import BrokenStreamError, CannotOpenError
from lensmount_server.video.limits import PictureLimits, ReaderOptions
from lensmount_server.video.open import open_reader
from lensmount_server.video.usb import Capture, UsbReader, open_v4l2
from opened import pixels_of
from videos import ANYWHERE, number_of, numbered, write_clip


class Camera:
    """A camera that gives numbered pictures, of which some can not be decoded, until its cable is pulled."""

    def __init__(self, pictures: int, bad: frozenset[int] = frozenset(), *, there: bool = True) -> None:
        self.wishes: dict[int, float] = {}
        self.released = False
        self._pictures = pictures
        self._bad = bad
        self._there = there
        self._number = -1

    def isOpened(self) -> bool:  # noqa: N802
        return self._there

    def set(self, propId: int, value: float) -> bool:  # noqa: N803
        self.wishes[propId] = value
        return True

    def get(self, propId: int) -> float:  # noqa: N803
        sizes = {cv2.CAP_PROP_FRAME_WIDTH: 320, cv2.CAP_PROP_FRAME_HEIGHT: 240}
        return float(sizes.get(propId, cv2.VideoWriter.fourcc(*"MJPG")))

    def grab(self) -> bool:
        self._number += 1
        return self._number < self._pictures

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        pixels = numbered(self._number).copy()
        pixels[0, 0] = (1, 2, 3)
        return self._number not in self._bad, pixels

    def release(self) -> None:
        self.released = True


def reader(opened: Callable[[str], Capture], query: str = "", limits: PictureLimits | None = None) -> UsbReader:
    address = parse_address(f"usb:0{query}", ANYWHERE)
    return UsbReader(address, options=ReaderOptions(limits=limits or PictureLimits()), open_capture=opened)


def test_frames_come_as_rgb_until_the_cable_is_pulled() -> None:
    camera = Camera(6, bad=frozenset({2}))
    devices: list[str] = []

    def opened(device: str) -> Capture:
        devices.append(device)
        return camera

    source = reader(opened)
    frames = source.frames()
    assert [number_of(pixels_of(frame.picture)) for frame in islice(frames, 5)] == [0, 1, 3, 4, 5]
    with pytest.raises(BrokenStreamError, match="no more pictures") as caught:
        next(frames)
    assert "cable" in caught.value.fix
    assert camera.released
    assert devices == ["/dev/video0"]
    assert (source.broken, source.skipped, source.codec) == (1, 0, "mjpeg")


def test_every_frame_has_its_number_colours_and_time() -> None:
    source = reader(lambda _: Camera(9))
    frames = list(islice(source.frames(), 5))
    assert [number_of(pixels_of(frame.picture)) for frame in frames] == list(range(5))
    assert [frame.index for frame in frames] == list(range(5))
    assert tuple(pixels_of(frames[0].picture)[0, 0]) == (3, 2, 1)  # OpenCV gives BGR
    times = [frame.pts_ns for frame in frames]
    assert times == sorted(set(times))


def test_wishes_are_passed_on() -> None:
    camera = Camera(9)
    next(reader(lambda _: camera, "?width=1280&height=720&fps=30").frames())
    assert camera.wishes == {
        cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30
    }  # fmt: skip


def test_pictures_beyond_the_limits_are_refused() -> None:
    camera = Camera(9)
    with pytest.raises(TooLargeError):
        next(reader(lambda _: camera, limits=PictureLimits(max_side=319)).frames())
    assert camera.released


def test_a_reader_stops_when_asked() -> None:
    camera = Camera(10**9)
    source = reader(lambda _: camera)
    frames = source.frames()
    next(frames)
    source.stop()
    assert list(frames) == []
    assert camera.released


def test_a_camera_that_is_not_there_may_come() -> None:
    camera = Camera(0, there=False)
    with pytest.raises(CannotOpenError, match="no camera answers") as caught:
        next(reader(lambda _: camera).frames())
    assert "group video" in caught.value.fix
    assert camera.released


def test_a_device_that_does_not_exist() -> None:
    if Path("/dev/video99").exists():
        pytest.skip("there is a /dev/video99 here")
    source = open_reader(parse_address("usb:99", ANYWHERE))
    assert isinstance(source, UsbReader)
    assert not open_v4l2("/dev/video99").isOpened()
    with pytest.raises(CannotOpenError, match="no camera answers"):
        next(source.frames())


def test_with_opencvs_own_capture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 12, b_frames=0)
    source = reader(lambda _: cv2.VideoCapture(str(path)))
    frames = source.frames()
    assert [number_of(pixels_of(frame.picture)) for frame in islice(frames, 12)] == list(range(12))
    with pytest.raises(BrokenStreamError):
        next(frames)


@pytest.mark.parametrize(
    ("url", "device"),
    [
        ("usb:3", "/dev/video3"),
        ("USB:/dev/video12?fps=30", "/dev/video12"),
        ("usb:/dev/v4l/by-id/usb-046d_C920-video-index0", "/dev/v4l/by-id/usb-046d_C920-video-index0"),
    ],
)
def test_addresses(url: str, device: str) -> None:
    address = parse_address(url, ANYWHERE)
    assert address.live
    assert str(address.path) == device
