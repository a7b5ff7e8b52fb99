"""Results of one source as a video to look at: each frame with what was said of it, at its own time. Needs PyAV.

The file is H.264 in MP4, written in fragments that are joined at its end: it plays too when nobody came to close it.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from lensmount.drawing import Card, Layout, draw
from lensmount.errors import InvalidInputError, LensmountError
from lensmount.results import Result

_TICKS = 90_000
_STEP_NS = 40_000_000
_CONTAINER = {"movflags": "hybrid_fragmented+frag_keyframe+empty_moov", "flush_packets": "1"}
# Pictures leave the encoder at once, so that none is missing when it all ends; a key picture now and then, to jump to.
_CODEC = {"crf": "20", "preset": "veryfast", "tune": "zerolatency", "g": "15"}


class Recorder:
    """Draws and writes results as they come; results of one frame are on one picture.

    The file is made with the first frame, in the place of one of that name, and complete after `close`. `cards` is
    how many tasks there is room for. Raises InvalidInputError when it can not be written; `check_path` looks before.
    """

    def __init__(self, path: Path, cards: int = 1) -> None:
        self.path = path
        self.frames = 0
        self.seconds = 0.0
        self._cards = cards
        self._clock = _Clock()
        self._same_frame: list[Result] = []
        self._said: dict[tuple[str, int], Result] = {}
        self._file: _File | None = None
        self._layout = Layout.of(1, 1, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, result: Result) -> None:
        """Takes a result with its frame as JPEG; what has none is left out."""
        if self._same_frame and self._same_frame[0].frame_index != result.frame_index:
            self._write()
        if result.jpeg:
            self._same_frame.append(result)

    def close(self) -> None:
        """Writes the last frame and ends the file."""
        try:
            self._write()
        finally:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _write(self) -> None:
        results, self._same_frame = self._same_frame, []
        if not results:
            return
        with Image.open(io.BytesIO(results[0].jpeg)) as picture:
            picture.load()
        if self._file is None:
            self._layout = Layout.of(picture.width, picture.height, max(self._cards, len(results)))
            self._file = _File(self.path, self._layout.size)
        time_ns = self._clock.place(results[0])
        self._file.write(draw(picture, self._lay_out(results), self._layout), time_ns)
        self.frames += 1
        self.seconds = time_ns / 1e9

    def _lay_out(self, results: list[Result]) -> list[Card]:
        """A card for each task that ever answered, in a fixed order; two aliases of a task have one each."""
        fresh: set[tuple[str, int]] = set()
        for result in results:
            place = next(number for number in range(len(results)) if (result.task, number) not in fresh)
            fresh.add((result.task, place))
            self._said[result.task, place] = result
        return [Card(self._said[key], key not in fresh) for key in sorted(self._said)]


def check_path(path: Path) -> None:
    """Raises InvalidInputError for a file that can not be made, before anything is asked of a server."""
    if path.suffix.lower() != ".mp4":
        fix = f"write {path.with_suffix('.mp4').name}" if path.name else "write annotated.mp4"
        raise InvalidInputError("only MP4 files are written", field="save", value=path, fix=fix)
    if not path.parent.is_dir():
        raise InvalidInputError("there is no such folder", field="save", value=path, fix="make the folder first")


class _File:
    """H.264 in MP4; every failure to write is an InvalidInputError that names the file."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._path = path
        self._last = -1
        try:
            self._container: OutputContainer = av.open(str(path), "w", container_options=_CONTAINER)
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error
        self._stream: VideoStream = self._container.add_stream("libx264", options=_CODEC)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def write(self, sheet: Image.Image, time_ns: int) -> None:
        """Adds a picture, later than the one before."""
        frame = av.VideoFrame.from_ndarray(np.asarray(sheet), "rgb24")
        frame.time_base = Fraction(1, _TICKS)
        frame.pts = self._last = max(self._last + 1, round(time_ns * _TICKS / 1e9))
        self._mux(frame)

    def close(self) -> None:
        """Ends the file."""
        try:
            self._mux(None)
        finally:
            self._container.close()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: av.FFmpegError | OSError) -> LensmountError:
        message = f"can not be written: {error.strerror}"
        return InvalidInputError(message, field="save", value=self._path, fix="give a file on a disk with room")


class _Clock:
    """Times in the file, in nanoseconds from its first frame.

    They follow the stream's own; where that does not go on (a file that starts again, a camera that came back), the
    times of capture do.
    """

    def __init__(self) -> None:
        self._before: Result | None = None
        self._time_ns = 0

    def place(self, result: Result) -> int:
        """When to show it."""
        before, self._before = self._before, result
        if before is not None:
            steps = (result.pts_ns - before.pts_ns, result.capture_time_ns - before.capture_time_ns, _STEP_NS)
            self._time_ns += next(step for step in steps if step > 0)
        return self._time_ns
