"""Data of any format in: found out, listed, and grouped as the person says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.arrow import list_arrow
from lensmount_training.data.clips import check_every, list_clips
from lensmount_training.data.coco import list_coco
from lensmount_training.data.detection import LAYOUTS, Found, detect
from lensmount_training.data.folder import list_folder
from lensmount_training.data.label_studio import list_label_studio
from lensmount_training.data.labels import check_several
from lensmount_training.data.listing import Entry, Listing
from lensmount_training.data.table import list_table

# A box with so much more on each side is hardly a box any more.
MAX_MARGIN = 10

_TITLES = {
    "imagefolder": "class folders",
    "table": "a table",
    "coco": "COCO",
    "arrow": "a data set of Hugging Face's",
    "label-studio": "an export of Label Studio's",
    "clips": "labelled intervals of videos",
}


@dataclass(frozen=True)
class ListingOptions:
    """How data are read.

    `format` is one of `LAYOUTS`, None for what is found. `group_by` says what belongs together: None for what the
    format says, "none", "folder" for the folder of a picture, or a regular expression whose first group, or whole
    match, in the name is the group. `every` are seconds between frames of a clip, `margin` is added to boxes on each
    side as a share of their sides.
    """

    format: str | None = None
    group_by: str | None = None
    every: float = 1.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        """Raise InvalidInputError for options that can not work."""
        if self.format is not None and self.format not in LAYOUTS:
            fix = f"choose from {', '.join(LAYOUTS)}"
            raise InvalidInputError("no such format", field="format", value=self.format, fix=fix)
        check_every(self.every)
        if not 0 <= self.margin <= MAX_MARGIN:
            fix = "give a share of the box's sides, such as 0.1"
            raise InvalidInputError(f"0 to {MAX_MARGIN} expected", field="margin", value=self.margin, fix=fix)
        self.group_of()

    def group_of(self) -> Callable[[Entry], str] | None:
        """The group of an entry; None for what the format says."""
        if self.group_by is None:
            return None
        if self.group_by == "none":
            return lambda _: ""
        if self.group_by == "folder":
            return lambda entry: entry.file.rpartition("/")[0]
        try:
            pattern = re.compile(self.group_by)
        except re.error as error:
            message, fix = f"no regular expression: {error}", "give none, folder, or an expression such as ^(\\w+)_"
            raise InvalidInputError(message, field="group_by", value=self.group_by, fix=fix) from error
        return lambda entry: _matched(pattern, entry.file)


def list_pictures(path: Path, options: ListingOptions | None = None, *, several: bool = True) -> Listing:
    """List the data at a path: a folder, or an index file that names pictures or videos.

    The listing's first note says what was found. `several` wants more than one class, as training does. Raises
    InvalidInputError where nothing is, where it is not clear what it is, and for data that can not be listed.
    """
    options = options or ListingOptions()
    found = detect(path, options.format)
    listing = _regrouped(_listed(found, options), options)
    if several:
        check_several(listing.labels)
    return replace(listing, notes=(_sentence(found.path, listing), *listing.notes))


def _listed(found: Found, options: ListingOptions) -> Listing:
    readers: Mapping[str, Callable[[], Listing]] = {
        "imagefolder": lambda: list_folder(found.path),
        "table": lambda: list_table(found.path),
        "coco": lambda: list_coco(found.path, found.document, options.margin),
        "arrow": lambda: list_arrow(found.path),
        "label-studio": lambda: list_label_studio(found.path, found.document, options.margin),
        "clips": lambda: list_clips(found.path, options.every),
    }
    return readers[found.form]()


def _regrouped(listing: Listing, options: ListingOptions) -> Listing:
    group_of = options.group_of()
    if group_of is None:
        return listing
    entries = tuple(replace(entry, group=group_of(entry)) for entry in listing.entries)
    alone = sum(not entry.group for entry in entries)
    if options.group_by == "none" or not alone:
        return replace(listing, entries=entries)
    if alone == len(entries):
        fix = f"look at the names, such as {entries[0].file}"
        message = "it gives no picture a group"
        raise InvalidInputError(message, field="group_by", value=options.group_by, fix=fix)
    note = f"{alone} of {len(entries)} pictures have no group by {options.group_by}, and each stands alone"
    return replace(listing, entries=entries, notes=(*listing.notes, note))


def _matched(pattern: re.Pattern[str], name: str) -> str:
    """The first group of a match, the whole match where there are no groups, "" without a match."""
    found = pattern.search(name)
    return "" if found is None else found.group(1 if pattern.groups else 0) or ""


def _sentence(path: Path, listing: Listing) -> str:
    labels = "labels, any number a picture" if listing.kind == "multi_label" else "classes"
    counts = f"{len(listing.entries):,} pictures, {len(listing.labels):,} {labels}"
    return f"{path} is read as {_TITLES[listing.form]}: {counts}"
