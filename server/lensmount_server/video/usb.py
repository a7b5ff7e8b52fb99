"""Cameras at the server itself, through Video4Linux: `usb:0`, `usb:/dev/video0?width=1280&height=720&fps=30`."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from threading import Event
from typing import Protocol

import cv2
import numpy as np
from cv2.typing import MatLike

from lensmount_server.frames import Frame, Still
from lensmount_server.video.address import Address
from lensmount_server.video.errors import BrokenStreamError, CannotOpenError
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.timeline import Timeline

_STEP_NS = 40_000_000
_WISHES = {"width": cv2.CAP_PROP_FRAME_WIDTH, "height": cv2.CAP_PROP_FRAME_HEIGHT, "fps": cv2.CAP_PROP_FPS}
_FORMATS = {"mjpg": "mjpeg"}


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's name
        """Whether there is a camera."""
        ...

    def set(self, propId: int, value: float) -> bool:  # noqa: N803  # OpenCV's name
        """Asks for a size or rate; a camera takes what is nearest to it."""
        ...

    def get(self, propId: int) -> float:  # noqa: N803  # OpenCV's name
        """What the camera took."""
        ...

    def grab(self) -> bool:
        """Waits for the next picture; False when none comes (V4L2: for 10 s)."""
        ...

    def retrieve(self) -> tuple[bool, MatLike]:
        """The picture that was grabbed: uint8 BGR (height, width, 3); False when it can not be decoded."""
        ...

    def release(self) -> None:
        """Lets go of the camera."""
        ...


def open_v4l2(device: str) -> Capture:
    """The camera at /dev/video0 or the like; `isOpened` says whether there is one."""
    capture: Capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    return capture


class UsbReader:
    """Reads a camera at the server. Its end is a failure. The capture time is the arrival of a picture."""

    skipped = 0

    def __init__(
        self,
        address: Address,
        *,
        options: ReaderOptions | None = None,
        timeline: Timeline | None = None,
        open_capture: Callable[[str], Capture] = open_v4l2,
    ) -> None:
        self._address = address
        self._limits = (options or ReaderOptions()).limits
        self._timeline = timeline or Timeline()
        self._open_capture = open_capture
        self._stop = Event()
        self.broken = 0
        self.codec = ""

    def want(self, max_fps: float) -> None:
        """Nothing: each picture stands alone, and one that nobody asks for costs next to nothing."""

    def stop(self) -> None:
        """Makes `frames` return after the next picture, or when the camera's time is up."""
        self._stop.set()

    def frames(self) -> Generator[Frame]:
        """Frames until `stop`. Raises CannotOpenError and BrokenStreamError, TooLargeError beyond the limits."""
        device = str(self._address.path)
        capture = self._open_capture(device)
        try:
            if not capture.isOpened():
                raise CannotOpenError(
                    "no camera answers there",
                    field="url",
                    value=self._address.shown,
                    fix=f"check that {device} exists, that nobody uses it, and that the server may (group video)",
                )
            self._prepare(capture)
            yield from self._read(capture)
        finally:
            capture.release()

    def _prepare(self, capture: Capture) -> None:
        for name, prop in _WISHES.items():
            if name in self._address.options:
                capture.set(prop, float(self._address.options[name]))
        self._limits.check(*(max(int(capture.get(_WISHES[side])), 1) for side in ("width", "height")))
        name = (
            int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("ascii", "replace").lower()
        )
        self.codec = _FORMATS.get(name, name if name.isalnum() else "")
        self._timeline.begin(_STEP_NS)

    def _read(self, capture: Capture) -> Generator[Frame]:
        while not self._stop.is_set():
            if not capture.grab():
                raise BrokenStreamError(
                    "the camera gives no more pictures",
                    field="url",
                    value=self._address.shown,
                    fix="check its cable, and that nobody else uses it",
                )
            arrival_ns, started = time.time_ns(), time.perf_counter()
            good, bgr = capture.retrieve()
            if not good or bgr.ndim != 3:
                self.broken += 1
                continue
            self._limits.check(bgr.shape[1], bgr.shape[0])
            pixels = np.ascontiguousarray(bgr[:, :, ::-1], dtype=np.uint8)
            index, pts_ns = self._timeline.place(arrival_ns)
            if not self._stop.is_set():
                yield Frame(Still(pixels), index, pts_ns, arrival_ns, (time.perf_counter() - started) * 1000)
