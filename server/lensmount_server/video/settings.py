"""How the owner of a source wants its video read and looked at; each checks its own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, auto
from math import isfinite

from lensmount.errors import InvalidInputError

ROTATIONS = (0, 90, 180, 270)
LONGEST_MS = 3_600_000


class Transport(StrEnum):
    """How RTSP packets travel: TCP loses none, UDP waits for none."""

    TCP = auto()
    UDP = auto()


class Pace(StrEnum):
    """How fast a recording is read: at the speed at which it was taken, or as fast as it is answered."""

    REALTIME = auto()
    FAST = auto()


class Effort(StrEnum):
    """Which pictures are decoded: what the tasks' rates need (AUTO), all, all that others refer to, or key frames."""

    AUTO = auto()
    ALL = auto()
    REFERENCE = auto()
    KEY = auto()


@dataclass(frozen=True)
class Region:
    """The part of a picture that is looked at, after rotation, in shares of its width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def check(self) -> None:
        """Raises InvalidInputError for what does not lie in the picture."""
        for name, start, size in (("width", self.left, self.width), ("height", self.top, self.height)):
            if not (isfinite(start) and isfinite(size) and start >= 0 and size > 0 and start + size <= 1 + 1e-6):
                fix = "use shares of the picture: 0 <= left, top and left + width, top + height <= 1"
                raise InvalidInputError("not a part of the picture", field=f"region.{name}", value=size, fix=fix)


@dataclass(frozen=True)
class Gate:
    """A still scene repeats its last answer, for no longer than `refresh_ms`.

    It is still while no more than `change`, a share of the picture, differs from the last one looked at; 0: no gate.
    """

    change: float = 0.0
    refresh_ms: int = 5_000

    def check(self) -> None:
        """Raises InvalidInputError."""
        if not 0 <= self.change < 1:
            fix = "give the share of the picture that must change, 0 (no gate) to below 1; 0.01 is a good start"
            raise InvalidInputError("not a share", field="gate.change", value=self.change, fix=fix)
        _check_ms("gate.refresh_ms", self.refresh_ms)


@dataclass(frozen=True)
class Reconnect:
    """The wait before a lost camera is tried again: doubles from `first_ms` to `longest_ms`."""

    first_ms: int = 250
    longest_ms: int = 2_000

    def check(self) -> None:
        """Raises InvalidInputError."""
        _check_ms("reconnect.first_ms", self.first_ms)
        _check_ms("reconnect.longest_ms", self.longest_ms)
        if self.longest_ms < self.first_ms:
            fix = f"use at least reconnect.first_ms, {self.first_ms}"
            raise InvalidInputError("too short", field="reconnect.longest_ms", value=self.longest_ms, fix=fix)


def check_rotation(degrees: int) -> None:
    """Raises InvalidInputError for anything but a number of quarter turns."""
    if degrees not in ROTATIONS:
        fix = f"use one of {', '.join(map(str, ROTATIONS))}, clockwise"
        raise InvalidInputError("not a rotation", field="rotation", value=degrees, fix=fix)


def _check_ms(field: str, value: int) -> None:
    if not 1 <= value <= LONGEST_MS:
        raise InvalidInputError("not a time", field=field, value=value, fix=f"use 1 to {LONGEST_MS} milliseconds")
