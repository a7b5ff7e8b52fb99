"""How a source wants its pictures to be looked at: turned, and only a part of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lensmount_server.frames import OpenPicture, Still
from lensmount_server.video.picture import DecodedPicture
from lensmount_server.video.planes import Box
from lensmount_server.video.settings import Region


@dataclass(frozen=True)
class View:
    """Turns pictures by `rotation` degrees clockwise (0, 90, 180 or 270), then leaves `region` of them.

    The edges of a region are rounded to even pixels, because two pixels share a chroma value and a picture of
    whole ones is scaled in its own colours; at least one pixel is left.
    """

    rotation: int = 0
    region: Region = field(default_factory=Region)

    def of(self, picture: OpenPicture) -> OpenPicture:
        """What is to be looked at; the picture itself where that is all of it."""
        turns = self.rotation // 90 % 4
        width, height = (picture.height, picture.width) if turns % 2 else (picture.width, picture.height)
        box = self.box(width, height)
        whole = (box.width, box.height) == (width, height)
        if whole and not turns:
            return picture
        if isinstance(picture, DecodedPicture):
            turned = picture.turned(turns)
            return turned if whole else turned.part(box)
        pixels = np.rot90(picture.pixels, -turns)[box.top : box.top + box.height, box.left : box.left + box.width]
        return Still(np.ascontiguousarray(pixels))

    def box(self, width: int, height: int) -> Box:
        """The region of a turned picture of that size, in pixels."""
        left, right = _edges(self.region.left, self.region.width, width)
        top, bottom = _edges(self.region.top, self.region.height, height)
        return Box(left, top, right - left, bottom - top)


def _edges(start: float, size: float, length: int) -> tuple[int, int]:
    """First pixel, and the one after the last, of a share of `length` pixels."""
    end = length if start + size >= 1 else min(2 * round((start + size) * length / 2), length)
    first = min(2 * round(start * length / 2), (length - 1) // 2 * 2)
    return first, max(end, min(first + 2, length))
