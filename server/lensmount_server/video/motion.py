"""Stub."""

from __future__ import annotations

from lensmount_server.frames import Picture
from lensmount_server.video.settings import Gate


class MotionGate:
    """Stub."""

    def __init__(self, settings: Gate) -> None:
        self._settings = settings

    def is_still(self, picture: Picture, now_ns: int) -> bool:
        """Stub."""
        return False
