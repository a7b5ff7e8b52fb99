"""A video that the server pulls: what can be asked of it, and how it is doing.

Times are named as on the wire: `_ns` are nanoseconds since the Unix epoch, `_ms` are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypedDict

from lensmount.results import DropPolicy, Drops
from lensmount.tasks import TaskRef, Tasks


class SourceState(StrEnum):
    """Where a source stands; UNSPECIFIED when the server tells a state that this client does not know."""

    UNSPECIFIED = "unspecified"
    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    PAUSED = "paused"
    FAILED = "failed"
    ENDED = "ended"


class Transport(StrEnum):
    """How RTSP packets travel: TCP loses none, UDP waits for none."""

    TCP = "tcp"
    UDP = "udp"


class Pace(StrEnum):
    """How fast a recording is read: at the speed at which it was taken, or as fast as it is answered."""

    REALTIME = "realtime"
    FAST = "fast"


class DecodeEffort(StrEnum):
    """Which pictures are decoded: what the tasks' rates need (AUTO), all, those that others refer to, key ones."""

    AUTO = "auto"
    ALL = "all"
    REFERENCE = "reference"
    KEY = "key"


class Region(NamedTuple):
    """A part of the picture after its rotation, in shares of its width and height, each 0 to 1."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


WHOLE = Region()


class SourceOptions(TypedDict, total=False):
    """How a source is read and answered; `Client.add_source` says what each one does."""

    loop: bool
    drop_policy: str
    deadline_ms: int
    priority: int
    transport: str
    pace: str
    decode_effort: str
    rotation: int
    region: Region | tuple[float, float, float, float] | None
    queue_size: int
    gate: float
    gate_refresh_ms: int
    reconnect_first_ms: int
    reconnect_longest_ms: int
    paused: bool


class SourceChanges(SourceOptions, total=False):
    """What can be changed of a source while it runs."""

    url: str
    tasks: Tasks


@dataclass(frozen=True, slots=True)
class Source:
    """A video that the server pulls, as it was asked for, and how it is doing.

    `reason` says why it failed and what to do. `fps` is recent frames a second, `width` and `height` pixels,
    `codec` FFmpeg's name of it. decoded = answered + dropped + the frames in flight; `skipped` packets were not
    decoded, since no task's rate needs their pictures. `connections` counts those that gave a frame, `crashes` the
    processes of the server that died while they read it. `url` has no password. `deadline_ms` is 0 where frames
    have all the time, `gate` where there is none, times where a thing has not happened.
    """

    name: str
    url: str
    tasks: tuple[TaskRef, ...]
    drop_policy: DropPolicy
    loop: bool
    state: SourceState
    reason: str
    decoded: int
    answered: int
    dropped: Drops
    fps: float
    width: int
    height: int
    deadline_ms: int = 0
    priority: int = 0
    transport: Transport = Transport.TCP
    pace: Pace = Pace.REALTIME
    decode_effort: DecodeEffort = DecodeEffort.AUTO
    rotation: int = 0
    region: Region = WHOLE
    queue_size: int = 0
    gate: float = 0.0
    gate_refresh_ms: int = 5_000
    reconnect_first_ms: int = 250
    reconnect_longest_ms: int = 2_000
    paused: bool = False
    codec: str = ""
    skipped: int = 0
    connections: int = 0
    crashes: int = 0
    state_time_ns: int = 0
    last_frame_time_ns: int = 0
