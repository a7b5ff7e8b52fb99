"""ImageFolder: a sub-folder for each class, in the order of their names.

Folders below a class keep their pictures together as one group: a sequence, a camera, a day.
"""

from __future__ import annotations

from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.files import files_below, folders_in, read_file
from lensmount_training.data.labels import check_labels
from lensmount_training.data.listing import Entry, Listing, Skipped

LAYOUT = "put the pictures of each class into a folder of its own, such as parts/scratch/0001.jpg"


def list_folder(folder: Path) -> Listing:
    """List an ImageFolder (JPEG, PNG, WebP, BMP; hidden files are left alone).

    Raises InvalidInputError when there is no such folder, when it or one below can not be read, and for no class in it.
    """
    labels = tuple(path.name for path in folders_in(folder))
    if not labels:
        raise InvalidInputError("no class folder in it", field="data", value=folder, fix=LAYOUT)
    check_labels(labels)
    found = [_entry(folder, label, path) for label in labels for path in files_below(folder / label)]
    entries = tuple(entry for entry in found if isinstance(entry, Entry))
    skipped = tuple(entry for entry in found if isinstance(entry, Skipped))
    return Listing(folder, "imagefolder", "single_label", labels, entries, skipped)


def _entry(folder: Path, label: str, path: Path | Skipped) -> Entry | Skipped:
    if isinstance(path, Skipped):
        return Skipped(Path(path.file).relative_to(folder).as_posix(), path.reason)
    name = path.relative_to(folder)
    group = name.parent.as_posix() if len(name.parts) > 2 else ""
    return Entry(name.as_posix(), (label,), lambda: read_file(path), group=group, source=group)
