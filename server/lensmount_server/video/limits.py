"""How large a picture may be, and how long a reader waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from lensmount.errors import InvalidInputError, TooLargeError


@dataclass(frozen=True)
class PictureLimits:
    """Sides of 1 to `max_side` pixels, `max_pixels` in all (by default the largest frame of H.264 level 6.2)."""

    max_side: int = 16_384
    max_pixels: int = 35_651_584

    def check(self, width: int, height: int) -> None:
        """Raises InvalidInputError for a side below 1, TooLargeError beyond a limit."""
        for name, side in (("width", width), ("height", height)):
            if side < 1:
                raise InvalidInputError("a picture needs pixels", field=name, value=side, fix="send 1 pixel or more")
            if side > self.max_side:
                fix = f"send at most {self.max_side} pixels a side"
                raise TooLargeError("the picture is too large", field=name, value=side, fix=fix)
        if width * height > self.max_pixels:
            fix = f"send at most {self.max_pixels} pixels in all"
            raise TooLargeError("the picture is too large", field="width*height", value=f"{width}x{height}", fix=fix)


@dataclass(frozen=True)
class ReaderOptions:
    """Seconds until a silent peer is given up, and the largest picture."""

    silence_s: float = 10.0
    limits: PictureLimits = field(default_factory=PictureLimits)
