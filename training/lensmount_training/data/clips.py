"""Videos with labelled times: frames of each interval as pictures, `line.mp4#t=12.5`.

The index is a table, or a JSON list of objects, with `video`, `start`, `end` and `label`, beside the videos. Times are
seconds or HH:MM:SS.mmm from the beginning. Frames of an interval are one group: neighbours are nearly the same picture.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

from pydantic import BaseModel

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_training.data.assembling import Index, assemble
from lensmount_training.data.decoding import open_video
from lensmount_training.data.delimited import SUFFIXES, column_of, read_table
from lensmount_training.data.documents import read_json, understood
from lensmount_training.data.files import below
from lensmount_training.data.labels import read_labels
from lensmount_training.data.listing import Content, Entry, Listing, Skipped
from lensmount_training.data.table import GROUP, LABEL
from lensmount_training.data.video import Video, Videos

_COLUMNS = {"video": ("video",), "start": ("start",), "end": ("end",), "label": LABEL, "group": GROUP}
# A day, in ms.
_UNKNOWN = 24 * 3600 * 1000
_TIME = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:[.,]\d*)?)", re.ASCII)


class _Item(BaseModel, coerce_numbers_to_str=True):
    video: str
    start: str
    end: str
    label: str | list[str]
    group: str | None = None


@dataclass(frozen=True)
class _Span:
    """A labelled interval of a video: times in ms, the end excluded."""

    video: str
    path: Path
    start: int
    end: int
    labels: tuple[str, ...]
    group: str

    def times(self, every: float) -> Iterator[int]:
        """From the start on; one at least."""
        step = Fraction(str(every)) * 1000
        count = max(math.ceil((self.end - self.start) / step), 1)
        return (round(self.start + place * step) for place in range(count))


def is_clips(columns: Sequence[str]) -> bool:
    """Whether a table with these columns, or a JSON list of objects with these keys, gives labels of intervals."""
    return all(column_of(columns, names) for name, names in _COLUMNS.items() if name != "group")


def list_clips(path: Path, every: float = 1.0) -> Listing:
    """List a frame for every `every` seconds of each interval, from its start on.

    What can not be used is skipped: no such video, times beyond its end. Raises InvalidInputError for what is no such
    index, for an `every` below a millisecond, and when nothing is left.
    """
    check_every(every)
    items, skipped = _items(path)
    kind, labels = read_labels([_cell(item) for item in items])
    length = cache(_length)
    spans: list[_Span] = []
    for item, own in zip(items, labels, strict=True):
        span = own if isinstance(own, str) else _span(path.parent, item, own, length)
        if isinstance(span, str):
            skipped.append(Skipped(f"{item.video or '(no name)'} {item.start}-{item.end}", span))
        else:
            spans.append(span)
    known = {label for own in labels if not isinstance(own, str) for label in own}
    return assemble(Index(path, path.parent, "clips"), kind, known, [*skipped, *_entries(spans, every)])


def check_every(every: float) -> None:
    """Raise InvalidInputError for seconds between frames that can not be followed."""
    if not 0.001 <= every < math.inf:
        fix = "give seconds, such as 1 or 0.5"
        raise InvalidInputError("at least 0.001 seconds", field="every", value=every, fix=fix)


def _items(path: Path) -> tuple[list[_Item], list[Skipped]]:
    if path.suffix.lower() not in SUFFIXES:
        return understood(list[_Item], read_json(path), "a list of intervals"), []
    table = read_table(path)
    columns = [(name, table.column(names)) for name, names in _COLUMNS.items()]
    rows = ({name: row[column] for name, column in columns if column} for row in table.rows)
    return understood(list[_Item], list(rows), "a table of intervals"), list(table.skipped)


def _cell(item: _Item) -> str:
    return item.label.strip() if isinstance(item.label, str) else "|".join(item.label) + "|"


def _span(folder: Path, item: _Item, labels: tuple[str, ...], length: Callable[[Path], int | str]) -> _Span | str:
    """The interval of an item as far as its video goes, or why it can not be used."""
    path, start, end = below(folder, item.video), milliseconds(item.start), milliseconds(item.end)
    if isinstance(path, str):
        return path
    if start is None or end is None:
        return f"no time: {item.end if end is None else item.start}"
    if end < start:
        return "it ends before it begins"
    available = length(path)
    if isinstance(available, str):
        return available
    if start >= available:
        return f"the video ends at {seconds(available)} s"
    name = path.relative_to(folder).as_posix()
    group = item.group or f"{name}#t={seconds(start)},{seconds(end)}"
    return _Span(name, path, start, min(end, available), labels, group)


def _entries(spans: Sequence[_Span], every: float) -> list[Entry]:
    """Frames by video and time, so that one pass of a decoder gives all of a video."""
    videos = Videos()
    times: dict[Path, set[int]] = defaultdict(set)
    found: list[tuple[str, int, Entry]] = []
    for span in spans:
        for time in span.times(every):
            times[span.path].add(time)
            frame = _Frame(videos.get(span.path), time)
            name = f"{span.video}#t={seconds(time)}"
            entry = Entry(name, span.labels, frame.read, group=span.group, source=span.video)
            found.append((span.video, time, entry))
    for path, own in times.items():
        videos.get(path).wanted = sorted(own)
    return [entry for _, _, entry in sorted(found, key=lambda each: each[:2])]


@dataclass(frozen=True, eq=False)
class _Frame:
    video: Video
    time: int

    def read(self) -> Content:
        text = f"{self.video.digest()} t={seconds(self.time)}"
        return Content(hashlib.sha256(text.encode()).hexdigest(), partial(self.video.picture, self.time))


def _length(path: Path) -> int | str:
    """The length of a video in ms, very long where the file does not say; or why it is none."""
    try:
        with open_video(path) as container:
            return _UNKNOWN if container.duration is None else int(container.duration) // 1000
    except LensmountError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)


def milliseconds(text: str) -> int | None:
    """A time as seconds, MM:SS or HH:MM:SS with decimals, in whole milliseconds; None for anything else."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, rest = found.groups()
    whole = 3600 * int(hours or 0) + 60 * int(minutes or 0)
    return round((whole + Fraction(rest.replace(",", ".").rstrip("."))) * 1000)


def seconds(time_ms: int) -> str:
    """Milliseconds as seconds without needless zeros."""
    return f"{time_ms // 1000}.{time_ms % 1000:03}".rstrip("0").rstrip(".")
