"""From what an index names to a listing: each name once, and an error when nothing is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.labels import NAMING, can_be_label, check_labels
from lensmount_training.data.listing import Entry, Kind, Listing, Skipped


@dataclass(frozen=True)
class Index:
    """A file that names pictures: where it is, the folder that its names are below, and the name of its format."""

    path: Path
    folder: Path
    form: str


def assemble(
    index: Index, kind: Kind, labels: Iterable[str], found: Iterable[Entry | Skipped], notes: Sequence[str] = ()
) -> Listing:
    """The listing of what an index names.

    `labels` are all that it names, in any order: one of which no picture can be used is missed, not forgotten.
    Raises InvalidInputError when no entry is left, and for labels that a task can not have.
    """
    named = [_labelled(each) if isinstance(each, Entry) else each for each in found]
    entries, again = _distinct(each for each in named if isinstance(each, Entry))
    skipped = (*(each for each in named if isinstance(each, Skipped)), *again)
    if not entries:
        raise _nothing(index.path, skipped)
    known = tuple(sorted(filter(can_be_label, set(labels))))
    if not known:
        raise InvalidInputError("no picture has a label", field="data", value=index.path, fix="label some of them")
    check_labels(known)
    return Listing(index.folder, index.form, kind, known, entries, skipped, tuple(notes))


def _labelled(entry: Entry) -> Entry | Skipped:
    return entry if all(map(can_be_label, entry.labels)) else Skipped(entry.file, NAMING)


def _distinct(entries: Iterable[Entry]) -> tuple[tuple[Entry, ...], list[Skipped]]:
    """Each name once. One that is given again with other labels is not used at all: which is right is not known."""
    named: dict[str, list[Entry]] = {}
    for entry in entries:
        named.setdefault(entry.file, []).append(entry)
    kept: list[Entry] = []
    skipped: list[Skipped] = []
    for name, own in named.items():
        labels = list(dict.fromkeys(tuple(sorted(entry.labels)) for entry in own))
        if len(labels) > 1:
            said = " / ".join(", ".join(each) or "none" for each in labels)
            skipped.append(Skipped(name, f"named {len(own)} times with different labels: {said}"))
            continue
        kept.append(own[0])
        if len(own) > 1:
            skipped.append(Skipped(name, f"named {len(own)} times, used once"))
    return tuple(kept), skipped


def _nothing(index: Path, skipped: Sequence[Skipped]) -> InvalidInputError:
    if not skipped:
        fix = "name some pictures and their labels in it"
        return InvalidInputError("it names no pictures", field="data", value=index, fix=fix)
    first = skipped[0]
    message = f"none of the {len(skipped)} it names can be used; the first, {first.file}: {first.reason}"
    fix = "put it beside the pictures, and look at the names and labels in it"
    return InvalidInputError(message, field="data", value=index, fix=fix)
