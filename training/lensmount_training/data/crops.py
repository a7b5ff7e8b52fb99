"""Parts of pictures as pictures of their own: a file is hashed once, and decoded once for boxes that come together.

A part is named by its whole pixels, `boards/1.png#xywh=10,20,64,64`, and all parts of one picture are one group:
they share its light, and often its objects.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data.files import decode_file, read_bytes
from lensmount_training.data.listing import Content, Entry, Skipped

# Whole pictures that are kept for their next box: one for each thread that decodes.
KEPT = 4


@dataclass(frozen=True)
class Box:
    """Left, top, width and height in pixels of the upright picture, whose width and height are `size` if known."""

    left: float
    top: float
    width: float
    height: float
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Part:
    """A box in the picture `file` at `path`, and its labels."""

    file: str
    path: Path
    box: Box
    labels: tuple[str, ...]


def list_parts(parts: Iterable[Part | Entry | Skipped], margin: float) -> list[Entry | Skipped]:
    """Entries of boxes that are larger by `margin` of their width and height on each side, cut where the picture ends.

    Boxes that hold no pixel are skipped; what is listed or skipped already stays as it is.
    """
    sheets: dict[Path, _Sheet] = {}
    kept: deque[_Sheet] = deque()
    found: list[Entry | Skipped] = []
    for part in parts:
        if not isinstance(part, Part):
            found.append(part)
            continue
        pixels = _whole_pixels(part.box, margin)
        if isinstance(pixels, str):
            box = part.box
            found.append(Skipped(f"{part.file} {box.left:g},{box.top:g},{box.width:g},{box.height:g}", pixels))
            continue
        sheet = sheets.setdefault(part.path, _Sheet(part.path, kept))
        name = f"{part.file}#xywh={','.join(map(str, pixels))}"
        found.append(Entry(name, part.labels, _Cut(sheet, pixels, part.box.size).read, group=part.file))
    return found


def _whole_pixels(box: Box, margin: float) -> tuple[int, int, int, int] | str:
    """The box with its margin, rounded outwards and cut; or what is wrong with it."""
    numbers = (box.left, box.top, box.width, box.height)
    if not all(map(math.isfinite, numbers)) or box.width < 1 or box.height < 1:
        return "a box of less than a pixel"
    left, right = _span(box.left, box.width, margin, box.size[0] if box.size else None)
    top, bottom = _span(box.top, box.height, margin, box.size[1] if box.size else None)
    if left >= right or top >= bottom:
        return "a box outside of the picture"
    return left, top, right - left, bottom - top


def _span(start: float, length: float, margin: float, limit: int | None) -> tuple[int, int]:
    first = math.floor(round(start - margin * length, 3))
    last = math.ceil(round(start + length + margin * length, 3))
    return max(first, 0), last if limit is None else min(last, limit)


class _Sheet:
    """A whole picture. Its pixels are held until `KEPT` others were needed after it."""

    def __init__(self, path: Path, kept: deque[_Sheet]) -> None:
        self.path = path
        self._kept = kept
        self._lock = Lock()
        self._digest = ""
        self._pixels: Pixels | None = None

    def digest(self) -> str:
        """SHA-256 of the file when it was first asked for."""
        with self._lock:
            self._digest = self._digest or hashlib.sha256(read_bytes(self.path)).hexdigest()
            return self._digest

    def pixels(self) -> Pixels:
        """The whole picture; raises InvalidInputError when the file has another content by now."""
        with self._lock:
            pixels = self._pixels
            if pixels is None:
                pixels = self._pixels = decode_file(self.path, self._digest)
                self._kept.append(self)
                if len(self._kept) > KEPT:
                    self._kept.popleft()._pixels = None  # noqa: SLF001 its own class
            return pixels


@dataclass(frozen=True, eq=False)
class _Cut:
    sheet: _Sheet
    pixels: tuple[int, int, int, int]
    size: tuple[int, int] | None

    def read(self) -> Content:
        text = f"{self.sheet.digest()} xywh={self.pixels}"
        return Content(hashlib.sha256(text.encode()).hexdigest(), self.decode)

    def decode(self) -> Pixels:
        whole = self.sheet.pixels()
        size = whole.shape[1], whole.shape[0]
        if self.size not in (None, size):
            message = "the picture is {}x{}, its boxes are of {}x{}".format(*size, *(self.size or ()))
            fix = "use the pictures that were annotated, as they were"
            raise InvalidInputError(message, field="data", value=self.sheet.path, fix=fix)
        left, top, width, height = self.pixels
        part = whole[top : top + height, left : left + width]
        if not part.size:
            fix = "use the pictures that were annotated, as they were"
            raise InvalidInputError("a box outside of the picture", field="data", value=self.sheet.path, fix=fix)
        return part.copy()
