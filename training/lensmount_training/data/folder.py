"""ImageFolder: a sub-folder for each class, in the order of their names.

Folders below a class keep their pictures together as one group: a sequence, a camera, a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import decode_picture
from lensmount_training.data.listing import Content, Entry, Listing

MAX_LABEL_LENGTH = 100
MAX_LABELS = 1000
LAYOUT = "put the pictures of each class into a folder of its own, such as parts/scratch/0001.jpg"


def list_folder(folder: Path) -> Listing:
    """List an ImageFolder (JPEG, PNG, WebP, BMP; hidden files are left alone).

    Raises InvalidInputError when there is no such folder, or fewer than two classes in it.
    """
    labels = _labels(folder)
    entries = tuple(_entry(folder, label, path) for label in labels for path in _files(folder / label))
    return Listing(folder, "imagefolder", "single_label", labels, entries)


def read_file(path: Path) -> Content:
    """A picture file; its bytes are its digest."""
    data = path.read_bytes()
    return Content(hashlib.sha256(data).hexdigest(), lambda: decode_picture(data))


def check_labels(labels: tuple[str, ...], field: str = "data") -> None:
    """Raise InvalidInputError for labels that a task can not have."""
    if len(labels) == 1:
        message = "one class only; there is nothing to tell apart"
        fix = "add pictures of another class, such as parts/ok/"
        raise InvalidInputError(message, field=field, value=labels[0], fix=fix)
    if len(labels) > MAX_LABELS:
        message = f"at most {MAX_LABELS} classes"
        raise InvalidInputError(message, field=field, value=len(labels), fix="give the folder above the classes")
    for label in labels:
        if not label or len(label) > MAX_LABEL_LENGTH or not label.isprintable():
            message = f"a class name has 1 to {MAX_LABEL_LENGTH} printable characters"
            raise InvalidInputError(message, field=field, value=ascii(label), fix="rename the class")


def _entry(folder: Path, label: str, path: Path) -> Entry:
    name = path.relative_to(folder)
    group = name.parent.as_posix() if len(name.parts) > 2 else ""
    return Entry(name.as_posix(), (label,), lambda: read_file(path), group=group, source=group)


def _labels(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InvalidInputError("no such folder", field="data", value=folder, fix="give the folder of your pictures")
    labels = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not labels:
        raise InvalidInputError("no class folder in it", field="data", value=folder, fix=LAYOUT)
    check_labels(labels)
    return labels


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            yield path
