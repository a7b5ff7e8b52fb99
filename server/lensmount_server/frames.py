"""What travels through the server: frames on the way in, answers on the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from torch import Tensor

from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.jpeg import encode_jpeg
from lensmount_server.unscaled import cut_out, needs_scaling


class Picture(Protocol):
    """What a frame shows, in whatever form and place it is; converted when somebody asks. For any thread."""

    @property
    def height(self) -> int:
        """In pixels."""
        ...

    @property
    def width(self) -> int:
        """In pixels."""
        ...

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        """At least what is `wanted`, as `prepare` gives it. Raises as that does."""
        ...

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What a backbone gets to see: uint8 (3, height, width) of the preprocessing. Raises as that does."""
        ...

    def jpeg(self) -> bytes:
        """All of it as JPEG, for people; b"" where it can not be had any more."""
        ...


class OpenPicture(Picture, Protocol):
    """A picture whose pixels are here."""

    @property
    def pixels(self) -> Pixels:
        """All of it: uint8 RGB (height, width, 3), C-contiguous and never written again."""
        ...

    def grey(self) -> Pixels:
        """Its brightness, uint8 (height, width), on whatever scale comes cheapest: to be compared with its like."""
        ...


@dataclass(frozen=True, eq=False)
class Still:
    """A picture that came as pixels."""

    pixels: Pixels

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        """What is wanted: at once where nothing is scaled, else made in a thread."""
        if any(needs_scaling(self.height, self.width, each) for each in wanted):
            return await prepare_in_thread(self, wanted)
        return {each: self.prepare(each) for each in wanted}

    def grey(self) -> Pixels:
        """Its brightness, uint8 (height, width)."""
        return np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY), np.uint8)

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """As training prepares it."""
        if needs_scaling(self.height, self.width, preprocessing):
            return preprocessing.prepare(self.pixels)
        return cut_out([self.pixels], preprocessing)[0]

    def jpeg(self) -> bytes:
        """As JPEG."""
        return encode_jpeg(self.pixels)


@dataclass(frozen=True, eq=False)
class Ready:
    """A picture of which only that is here which one way of preparing it gave: uint8 (3, height, width)."""

    preprocessing: Preprocessing
    row: Tensor

    @property
    def height(self) -> int:
        """In pixels."""
        return self.preprocessing.height

    @property
    def width(self) -> int:
        """In pixels."""
        return self.preprocessing.width

    async def prepared(self, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
        """What is here."""
        return {each: self.prepare(each) for each in wanted}

    def prepare(self, preprocessing: Preprocessing) -> Tensor:
        """What is here; raises ValueError for another way."""
        if preprocessing != self.preprocessing:
            raise ValueError("this picture was prepared in another way")
        return self.row

    def jpeg(self) -> bytes:
        """Nothing: it can not be had any more."""
        return b""


async def prepare_in_thread(picture: OpenPicture, wanted: Collection[Preprocessing]) -> Mapping[Preprocessing, Tensor]:
    """Prepares a picture while the event loop goes on."""
    return await asyncio.to_thread(lambda: {each: picture.prepare(each) for each in wanted})


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture with its capture time.

    `index` counts decoded frames of its stream from 0; `pts_ns` is nanoseconds
    from the stream's zero; `capture_time_ns` is Unix time (arrival where the camera
    tells none); `decode_ms` is what decoding it took.
    """

    picture: Picture
    index: int = 0
    pts_ns: int = 0
    capture_time_ns: int = 0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Want:
    """What a client asks of a frame: a task, through an alias or a pinned version (0: the alias).

    On a stream it looks at no more than `max_fps` frames a second; 0: at every frame.
    """

    task: str
    alias: str = "live"
    version: int = 0
    max_fps: float = 0.0


@dataclass(frozen=True)
class VersionId:
    """An adapter version: `content_hash` is its identity, `version` its number within the task."""

    task: str
    version: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class Ran:
    """A batch that ran: its number since the start, from 1, and how many frames were in it."""

    number: int
    frames: int


NO_BATCH = Ran(0, 0)


@dataclass(frozen=True)
class Answer:
    """What one adapter says of one frame.

    `scores` are probabilities in the order of `labels` (the task's own); `decision`
    is the chosen labels; `queue_ms` is the wait for the engine and `inference_ms` the
    batch that the row was part of, which is `ran`.
    """

    adapter: VersionId
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    decision: tuple[str, ...]
    queue_ms: float
    inference_ms: float
    ran: Ran = NO_BATCH
