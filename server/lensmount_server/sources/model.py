"""What a source is told to be, and how it is doing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from lensmount.errors import InvalidInputError
from lensmount.terms import deadline_number, priority_number
from lensmount_server.frames import Want
from lensmount_server.scheduling import Terms
from lensmount_server.video.account import AccountState
from lensmount_server.video.address import redacted
from lensmount_server.video.mailbox import DropPolicy
from lensmount_server.video.settings import Effort, Gate, Pace, Reconnect, Region, Transport, check_rotation

# Whole pictures wait there, some megabytes each.
MAX_QUEUE = 256
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class SourceSpec:
    """A source as its owner wants it.

    `loop` starts a file again at its end; a `deadline_ms` of 0 is none. With EVERY_FRAME `queue_size` frames may wait
    (0: 4). `rotation` is clockwise, in degrees; `region` is what is left of the turned picture.
    """

    name: str
    url: str = field(repr=False)  # may hold a password
    wants: tuple[Want, ...]
    policy: DropPolicy = DropPolicy.NEWEST
    loop: bool = False
    deadline_ms: int = 0
    priority: int = 0
    queue_size: int = 0
    transport: Transport = Transport.TCP
    pace: Pace = Pace.REALTIME
    effort: Effort = Effort.AUTO
    rotation: int = 0
    region: Region = field(default_factory=Region)
    gate: Gate = field(default_factory=Gate)
    reconnect: Reconnect = field(default_factory=Reconnect)
    paused: bool = False

    @property
    def terms(self) -> Terms:
        """How its frames are scheduled."""
        return Terms(f"source-{self.name}", self.priority, self.deadline_ms / 1e3 or None)

    @property
    def reading(self) -> tuple[object, ...]:
        """What a connection is made with: another value needs another connection."""
        return self.url, self.transport, self.pace, self.effort, self.loop, self.policy, self.queue_size

    @property
    def shown_url(self) -> str:
        """The address without its password, for lists and logs."""
        return redacted(self.url)

    def check(self) -> None:
        """Raises InvalidInputError for what can not work, but for the address, which its parser checks."""
        if not _NAME.fullmatch(self.name):
            fix = "use 1 to 64 of a-z A-Z 0-9 . _ -"
            raise InvalidInputError("not a name for a source", field="name", value=self.name, fix=fix)
        if not self.wants:
            raise InvalidInputError("a source needs a task", field="tasks", fix="name at least one task")
        deadline_number(self.deadline_ms)
        priority_number(self.priority)
        if not 0 <= self.queue_size <= MAX_QUEUE:
            fix = f"use 1 to {MAX_QUEUE} frames, or 0 for 4"
            raise InvalidInputError("no such queue", field="queue_size", value=self.queue_size, fix=fix)
        check_rotation(self.rotation)
        self.region.check()
        self.gate.check()
        self.reconnect.check()


class SourceState(Enum):
    """Where a source is in its life."""

    CONNECTING = auto()
    LIVE = auto()
    STALLED = auto()
    RECONNECTING = auto()
    PAUSED = auto()
    FAILED = auto()
    ENDED = auto()


@dataclass(frozen=True)
class SourceStatus:
    """A source at one moment: frames a second over the last seconds, width and height of the last frame in pixels.

    `reason` says why it is RECONNECTING or FAILED; while it is LIVE, why frames were
    dropped as failed, if any were. `skipped` packets were not decoded because no task needed their pictures.
    `connections` counts those that gave a frame, `crashes` the worker processes that died under it; times are Unix
    nanoseconds, 0 where there is none.
    """

    spec: SourceSpec
    state: SourceState
    account: AccountState
    reason: str = ""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    skipped: int = 0
    connections: int = 0
    crashes: int = 0
    state_time_ns: int = 0
    last_frame_time_ns: int = 0
