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

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class SourceSpec:
    """A source as its owner wants it. `loop` starts a file again at its end; a `deadline_ms` of 0 is none."""

    name: str
    url: str = field(repr=False)  # may hold a password
    wants: tuple[Want, ...]
    policy: DropPolicy = DropPolicy.NEWEST
    loop: bool = False
    deadline_ms: int = 0
    priority: int = 0

    @property
    def terms(self) -> Terms:
        """How its frames are scheduled."""
        return Terms(f"source-{self.name}", self.priority, self.deadline_ms / 1e3 or None)

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


class SourceState(Enum):
    """Where a source is in its life."""

    CONNECTING = auto()
    LIVE = auto()
    STALLED = auto()
    RECONNECTING = auto()
    FAILED = auto()
    ENDED = auto()


@dataclass(frozen=True)
class SourceStatus:
    """A source at one moment: frames a second over the last seconds, width and height of the last frame in pixels.

    `reason` says why it is RECONNECTING or FAILED; while it is LIVE, why frames were
    dropped as failed, if any were.
    """

    spec: SourceSpec
    state: SourceState
    account: AccountState
    reason: str = ""
    fps: float = 0.0
    width: int = 0
    height: int = 0
