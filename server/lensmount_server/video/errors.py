"""What can go wrong with a video whose address is right, now or in its middle."""

from __future__ import annotations

from lensmount.errors import UnavailableError


class CannotOpenError(UnavailableError):
    """The camera or file can not be opened now; later it may."""


class BrokenStreamError(UnavailableError):
    """It was open, and then no more frames could be had."""
