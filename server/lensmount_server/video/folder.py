"""The pictures of a folder as a video: `folder:PATH?fps=2`, by default one picture a second."""

from __future__ import annotations

import logging
import re
import stat
import time
from collections.abc import Generator
from pathlib import Path
from threading import Event

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters.pictures import Pixels, decode_picture
from lensmount_server.frames import Frame, Still
from lensmount_server.video.address import Address
from lensmount_server.video.limits import ReaderOptions
from lensmount_server.video.opening import never
from lensmount_server.video.settings import Pace
from lensmount_server.video.timeline import Pacer, Timeline

logger = logging.getLogger(__name__)

_NS = 1_000_000_000
_MAX_BYTES = 128 << 20
_ENDINGS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".bmp": "bmp"}


class FolderReader:
    """Reads the pictures that lie directly in a folder, in the order of their names (2.png before 10.png).

    They are read at `fps`, or with Pace.FAST as fast as their frames are taken; with `loop` again and again, new ones
    included. A picture that can not be decoded, or that lies outside the folders of the policy, counts as `broken`.
    """

    skipped = 0

    def __init__(
        self,
        address: Address,
        *,
        loop: bool = False,
        pace: Pace = Pace.REALTIME,
        options: ReaderOptions | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._address = address
        self._loop = loop
        self._limits = (options or ReaderOptions()).limits
        self._timeline = timeline or Timeline()
        self._stop = Event()
        self._pacer = Pacer(self._stop) if pace is Pace.REALTIME else None
        self._step_ns = round(_NS / float(address.options.get("fps", "1")))
        self.broken = 0
        self.codec = ""

    def want(self, max_fps: float) -> None:
        """Nothing: each picture stands alone, and one that nobody asks for costs next to nothing."""

    def stop(self) -> None:
        """Makes `frames` return before the next picture."""
        self._stop.set()

    def frames(self) -> Generator[Frame]:
        """Frames until the last picture. Raises InvalidInputError when there is none that can be decoded."""
        while not self._stop.is_set():
            before = self._timeline.frames
            paths = self._paths()
            self._timeline.begin(self._step_ns)
            for path in paths:
                if self._stop.is_set():
                    return
                yield from self._frame(path)
            if self._timeline.frames == before and not self._stop.is_set():
                raise never(self._address, "no picture in it can be decoded")
            if not self._loop:
                return

    def _paths(self) -> list[Path]:
        folder = self._address.policy.check_path(self._address.path, self._address.shown)
        try:
            found = [path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS]
        except OSError as error:
            raise never(self._address, f"the folder can not be read: {error.strerror}") from error
        if not found:
            raise never(self._address, f"no pictures in it (names that end in {', '.join(_ENDINGS)})")
        return sorted(found, key=lambda path: natural(path.name))

    def _frame(self, path: Path) -> Generator[Frame]:
        started = time.perf_counter()
        try:
            pixels = self._pixels(path)
        except (LensmountError, OSError) as error:
            logger.info("%s: %s", path, error)
            self.broken += 1
            return
        decode_ms = (time.perf_counter() - started) * 1000
        self.codec = _ENDINGS[path.suffix.lower()]
        index, pts_ns = self._timeline.place(None)
        if self._pacer is not None:
            self._pacer.wait(pts_ns)
        if not self._stop.is_set():
            yield Frame(Still(pixels), index, pts_ns, time.time_ns(), decode_ms)

    def _pixels(self, path: Path) -> Pixels:
        real = self._address.policy.check_path(path, str(path))
        status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInputError("not a regular file", field="picture", value=path.name)
        if status.st_size > _MAX_BYTES:
            raise TooLargeError("the file is too large", field="picture", value=path.name, fix="send at most 128 MiB")
        pixels = decode_picture(real.read_bytes(), field="picture")
        self._limits.check(pixels.shape[1], pixels.shape[0])
        return pixels


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people do: their numbers by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
