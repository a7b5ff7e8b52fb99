"""A range of segments: what is compiled, probed and tried as one."""

from __future__ import annotations

from dataclasses import dataclass

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.preprocessing import Preprocessing


@dataclass(frozen=True)
class SegmentRange:
    """Segments `start` to `stop` (exclusive) for pictures of one preprocessing.

    A range that starts at 0 takes uint8 (rows, 3, height, width) and normalises it; any other
    takes float32 features as the segment before gives them. All give float32.
    """

    start: int
    stop: int
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return self.stop - self.start


def whole(backbone: Backbone) -> SegmentRange:
    """All segments, for pictures as the backbone itself takes them."""
    return SegmentRange(0, len(backbone.segments), backbone.preprocessing)
