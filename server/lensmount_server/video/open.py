"""Stub."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from lensmount_server.frames import Frame
from lensmount_server.video.address import Address
from lensmount_server.video.reader import ReaderOptions, VideoReader
from lensmount_server.video.settings import Effort, Pace
from lensmount_server.video.timeline import Timeline


class Reader(Protocol):
    """Stub."""

    @property
    def broken(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def codec(self) -> str: ...
    def frames(self) -> Generator[Frame]: ...
    def stop(self) -> None: ...
    def want(self, max_fps: float) -> None: ...


class _Reader(VideoReader):
    skipped = 0
    codec = "h264"

    def want(self, max_fps: float) -> None:
        """Stub."""


def open_reader(
    address: Address, *, loop: bool, pace: Pace, effort: Effort, options: ReaderOptions, timeline: Timeline
) -> Reader:
    """Stub."""
    return _Reader(address, loop=loop, options=options, timeline=timeline)
