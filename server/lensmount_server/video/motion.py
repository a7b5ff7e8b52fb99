"""Whether a scene is still, told from very small grey pictures."""

from __future__ import annotations

import cv2
import numpy as np

from lensmount_adapters.pictures import Pixels
from lensmount_server.frames import OpenPicture
from lensmount_server.video.settings import Gate

COLUMNS, ROWS = 64, 36
# Levels of 255 by which a cell's mean must change. Sensor noise of 8 levels and x264 at crf 36, key frames
# included, move it by 3 at most; an object moves it by its contrast.
NOISE = 6
# Rows of a picture that are averaged in a cell: more of them cost time and change nothing.
_ROWS_A_CELL = 10
_NS_A_MS = 1_000_000


class MotionGate:
    """Compares each picture with the last one that was not still, so slow change adds up. For one thread.

    A picture is still while at most `settings.change` of its cells (64 by 36, each the mean of its pixels) differ by
    more than the noise, for `settings.refresh_ms` at most. A change smaller than that share of the picture, or
    fainter than the noise, is not seen until then.
    """

    def __init__(self, settings: Gate) -> None:
        self._change = settings.change
        self._refresh_ns = settings.refresh_ms * _NS_A_MS
        self._seen: Pixels | None = None
        self._size = (0, 0)
        self._since_ns = 0

    def is_still(self, picture: OpenPicture, now_ns: int) -> bool:
        """Whether nothing moved since the last picture that was not still; `now_ns` never goes back."""
        if not self._change:
            return False
        small, size = _small(picture.grey()), (picture.width, picture.height)
        if size == self._size and now_ns - self._since_ns < self._refresh_ns and self._is_like(small):
            return True
        self._seen, self._size, self._since_ns = small, size, now_ns
        return False

    def forget(self) -> None:
        """The next picture is not still, whatever it shows."""
        self._seen = None

    def _is_like(self, small: Pixels) -> bool:
        if self._seen is None:
            return False
        changed = int(np.count_nonzero(cv2.absdiff(small, self._seen) > NOISE))
        return changed <= self._change * small.size


def _small(grey: Pixels) -> Pixels:
    height, width = grey.shape
    every = max(height // (ROWS * _ROWS_A_CELL), 1)
    rows = grey[::every] if grey.strides[1] == 1 else np.ascontiguousarray(grey[::every])
    size = min(width, COLUMNS), min(height, ROWS)
    return np.asarray(cv2.resize(rows, size, interpolation=cv2.INTER_AREA), np.uint8)
