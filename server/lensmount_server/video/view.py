"""Stub."""

from __future__ import annotations

from lensmount_server.frames import Picture
from lensmount_server.video.settings import Region


class View:
    """Stub."""

    def __init__(self, rotation: int, region: Region) -> None:
        del rotation, region

    def of(self, picture: Picture) -> Picture:
        """Stub."""
        return picture
