"""What a data set lists, before a picture is opened: names, labels, and what belongs together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lensmount_adapters.pictures import Pixels

Kind = Literal["single_label", "multi_label"]


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why; of a byte-for-byte copy, of which file, and its own labels."""

    file: str
    reason: str
    copy_of: str = field(default="", compare=False)
    labels: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, eq=False)
class Content:
    """What an entry holds.

    `digest` is the SHA-256 of all that decides the picture (the file's bytes; with them the crop, or the
    moment of a video), `decode` gives uint8 RGB (height, width, 3) or raises a LensmountError or an OSError.
    """

    digest: str
    decode: Callable[[], Pixels]


@dataclass(frozen=True, eq=False)
class Entry:
    """One picture of a data set; nothing of it is read yet.

    `file` is its name, each once: the path below the folder, and for a part of a file a media fragment
    behind it (https://www.w3.org/TR/media-frags/): `boards/1.png#xywh=10,20,64,64`, `line.mp4#t=12.5`.
    `labels` are names: exactly one, or any number for multi-label. Pictures of one `group` (a sequence,
    a camera, a day) are never parted; "" stands alone. `source` says where it was taken, for slices; "" unknown.
    `read` raises a LensmountError or an OSError.
    """

    file: str
    labels: tuple[str, ...]
    read: Callable[[], Content]
    group: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Listing:
    """All entries of a data set in a fixed order, its labels, and what could not be listed.

    `notes` are sentences that a person should see: how the data were understood, and what of them was left aside.
    """

    folder: Path
    form: str
    kind: Kind
    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
