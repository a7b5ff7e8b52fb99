"""What travels through the server: frames on the way in, answers on the way out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded picture with its capture time.

    `pixels` is uint8 RGB of shape (height, width, 3), C-contiguous and never written
    again. `index` counts decoded frames of its stream from 0; `pts_ns` is nanoseconds
    from the stream's zero; `capture_time_ns` is Unix time (arrival where the camera
    tells none); `decode_ms` is what decoding it took.
    """

    pixels: Pixels
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


@dataclass(frozen=True)
class Answer:
    """What one adapter says of one frame.

    `scores` are probabilities in the order of `labels` (the task's own); `decision`
    is the chosen labels; `queue_ms` is the wait for the engine and `inference_ms` the
    batch that the row was part of.
    """

    adapter: VersionId
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    decision: tuple[str, ...]
    queue_ms: float
    inference_ms: float
