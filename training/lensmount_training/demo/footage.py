"""What the demo's server looks at: a clip pushed as live packets, or a source that it pulls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from lensmount import Client, Result, Source
from lensmount.errors import InvalidInputError, UnavailableError

Pixels = NDArray[np.uint8]
# How long a source is watched beyond its time for what is still to be seen.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Account:
    """Frames that were decoded, and how many of them were not answered."""

    frames: int
    lost: int


class Footage(Protocol):
    """A video on its way through the server."""

    def results(self, enough: Callable[[], bool]) -> Iterator[Result]:
        """Results as they come; a video that can go on does so, for a while, until there was `enough`."""
        ...

    def progress(self, result: Result) -> float:
        """How far the video is with this result, 0 to 1."""
        ...

    def account(self) -> Account:
        """The account, after the last result."""
        ...

    def pictures(self) -> Iterator[tuple[int, Pixels]]:
        """The frames again, BGR, by their index, for drawing."""
        ...

    def frames_per_second(self) -> int:
        """The video's own pace."""
        ...


class ClipFootage:
    """A file, pushed over gRPC at its own pace; every frame is answered."""

    def __init__(self, client: Client, clip: Path, tasks: Sequence[str]) -> None:
        self._clip = clip
        with open_clip(clip) as container:
            stream = container.streams.video[0]
            self._rate = round(stream.average_rate or 25)
            self._total = stream.frames or round(float((container.duration or 0) / av.time_base) * self._rate) or 1
        self._stream = client.stream(clip, tasks, name="demo", realtime=True)

    def results(self, enough: Callable[[], bool]) -> Iterator[Result]:  # noqa: ARG002 - the protocol's
        """Every task's result for every frame."""
        yield from self._stream

    def progress(self, result: Result) -> float:
        """By frames."""
        return min((result.frame_index + 1) / self._total, 1.0)

    def account(self) -> Account:
        """As the server's summary has it."""
        summary = self._stream.summary
        if summary is None:
            raise UnavailableError("the stream ended without a summary", field="stream", fix="read server.log")
        return Account(summary.decoded, summary.dropped.total)

    def pictures(self) -> Iterator[tuple[int, Pixels]]:
        """The file decoded once more."""
        with open_clip(self._clip) as container:
            for index, frame in enumerate(container.decode(video=0)):
                yield index, np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)

    def frames_per_second(self) -> int:
        """The file's average."""
        return self._rate


class SourceFootage:
    """A source that the server pulls, watched for some seconds; newest frame wins."""

    def __init__(self, client: Client, url: str, tasks: Sequence[str], seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._jpegs: dict[int, bytes] = {}
        client.add_source("demo", url, tasks, loop=True)
        self._start = time.monotonic()
        self._account = Account(0, 0)
        self._rate = 25

    def results(self, enough: Callable[[], bool]) -> Iterator[Result]:
        """Results until the time is up and there was `enough`; raises UnavailableError when the source fails."""
        for item in self._client.watch(["demo"], with_jpeg=True):
            if isinstance(item, Source):
                _check(item)
                continue
            self._jpegs[item.frame_index] = item.jpeg
            yield item
            seconds = time.monotonic() - self._start
            if seconds >= self._seconds and (enough() or seconds >= self._seconds + PATIENCE_S):
                break
        source = self._client.source("demo")
        self._rate = max(round(source.fps), 1)
        self._account = Account(source.decoded, source.dropped.total)
        self._client.remove_source("demo")

    def progress(self, result: Result) -> float:  # noqa: ARG002 - the protocol's
        """By time."""
        return min((time.monotonic() - self._start) / self._seconds, 1.0)

    def account(self) -> Account:
        """As the server has it when the time is up."""
        return self._account

    def pictures(self) -> Iterator[tuple[int, Pixels]]:
        """The frames that came with the results."""
        for index, jpeg in sorted(self._jpegs.items()):
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if picture is not None:
                yield index, np.asarray(picture, np.uint8)

    def frames_per_second(self) -> int:
        """As it was measured."""
        return self._rate


def open_clip(clip: Path) -> av.container.InputContainer:
    """Open a video file; raises InvalidInputError for what is none."""
    fix = "give --clip a video file that FFmpeg can read"
    try:
        container = av.open(str(clip))
    except (OSError, av.FFmpegError) as error:
        raise InvalidInputError(f"can not be opened: {error}", field="clip", value=clip, fix=fix) from error
    if not container.streams.video:
        raise InvalidInputError("there is no video in it", field="clip", value=clip, fix=fix)
    return container


def _check(source: Source) -> None:
    if source.state == "failed":
        fix = "check the address given with --source"
        raise UnavailableError(f"the source failed: {source.reason}", field="source", value=source.url, fix=fix)
