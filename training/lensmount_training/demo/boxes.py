"""Where a thing is in a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; `right` and `bottom` are one past the last."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """In square pixels; 0 where the sides have crossed."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def moved(self, x: float, y: float) -> Box:
        """The same rectangle, so many pixels further right and down."""
        return Box(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def share_inside(self, other: Box) -> float:
        """How much of this rectangle lies in the other, 0 to 1; 0 for one without area."""
        common = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        return common.area / self.area if self.area else 0.0
