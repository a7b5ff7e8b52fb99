"""Which of the formats that people have lies at a path.

What is there decides: the keys of an index, the files of a folder. Where two readings are possible nobody guesses.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.arrow import is_arrow
from lensmount_training.data.clips import is_clips
from lensmount_training.data.coco import is_coco
from lensmount_training.data.delimited import SUFFIXES, column_of, read_columns
from lensmount_training.data.documents import read_json
from lensmount_training.data.files import files_in, folders_in, has_pictures
from lensmount_training.data.folder import list_folder
from lensmount_training.data.label_studio import is_label_studio
from lensmount_training.data.table import GROUP, SOURCE, is_table, list_table

LAYOUTS: Mapping[str, str] = {
    "imagefolder": "a folder for each class, such as parts/scratch/0001.jpg",
    "table": "CSV or TSV with columns such as file,label",
    "coco": "COCO JSON",
    "arrow": "a folder that datasets' save_to_disk wrote",
    "label-studio": "Label Studio's JSON export",
    "clips": "CSV or JSON with video,start,end,label",
}
# Sub-folders of these names are parts of a data set, not its classes.
PARTS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_FOLDERS = ("imagefolder", "arrow")
_JSON = ".json"


@dataclass(frozen=True)
class Found:
    """A format, the file or folder that is read in it, and the document where the file is JSON."""

    form: str
    path: Path
    document: object = None


def detect(path: Path, wanted: str | None = None) -> Found:
    """The format of what lies at a path; `wanted` is one of `LAYOUTS` and needs no detection but that of the file.

    Raises InvalidInputError where nothing is, and where it is not clear what it is.
    """
    if path.is_file():
        return _forced(path, wanted) if wanted else _recognised(path)
    if not path.exists():
        raise _refused("no such file or folder", path)
    if wanted in _FOLDERS:
        return Found(wanted, path)
    if wanted is None and is_arrow(path):
        return Found("arrow", path)
    indices = [found for file in files_in(path) if (found := _index_or_none(file)) and wanted in (None, found.form)]
    if len(indices) > 1:
        names = ", ".join(found.path.name for found in indices)
        message, fix = f"several files in it may name the pictures: {names}", "give the path of the right one"
        raise InvalidInputError(message, field="data", value=path, fix=fix)
    if wanted and not indices:
        raise _refused(f"no file in it is {LAYOUTS[wanted]}", path)
    classes = [] if wanted else _classes(path)
    if not indices:
        return _class_folders(path)
    return indices[0] if len(classes) < 2 or indices[0].form != "table" else _table_or_folders(path, indices[0])


def _forced(path: Path, wanted: str) -> Found:
    if wanted in _FOLDERS:
        fix = "give a folder, or another --format"
        raise InvalidInputError(f"a file is not {LAYOUTS[wanted]}", field="data", value=path, fix=fix)
    return Found(wanted, path, read_json(path) if path.suffix.lower() == _JSON else None)


def _recognised(path: Path) -> Found:
    found = _index(path)
    if found is None:
        raise _refused("the file is in none of the formats that are known", path)
    return found


def _index(path: Path) -> Found | None:
    """What an index file is by its columns or keys; raises InvalidInputError for a damaged one."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        columns = read_columns(path)
        return Found("clips", path) if is_clips(columns) else Found("table", path) if is_table(columns) else None
    if suffix != _JSON:
        return None
    document = read_json(path)
    if is_coco(document):
        return Found("coco", path, document)
    if is_label_studio(document):
        return Found("label-studio", path, document)
    first = document[0] if isinstance(document, list) and document else None
    return Found("clips", path, document) if isinstance(first, dict) and is_clips(tuple(first)) else None


def _index_or_none(path: Path) -> Found | None:
    """As `_index`; what lies beside the pictures may be damaged, or anything."""
    with suppress(InvalidInputError):
        return _index(path)
    return None


def _classes(path: Path) -> list[str]:
    names = [folder.name for folder in folders_in(path) if has_pictures(folder)]
    return [] if {name.lower() for name in names} <= PARTS else names


def _class_folders(path: Path) -> Found:
    names = [folder.name for folder in folders_in(path)]
    if not names:
        raise _refused("nothing in it is in a format that is known", path)
    if {name.lower() for name in names} <= PARTS:
        message = f"its folders are parts of a data set, not classes: {', '.join(names)}"
        fix = "give the folder of one part: lensmount draws its own parts; if they are classes, --format imagefolder"
        raise InvalidInputError(message, field="data", value=path, fix=fix)
    return Found("imagefolder", path)


def _table_or_folders(path: Path, table: Found) -> Found:
    """Both may give labels. Where they give the same, the table is taken only if it knows more of the pictures."""
    with suppress(InvalidInputError):
        both = [
            {(entry.file, entry.labels) for entry in each.entries}
            for each in (list_table(table.path), list_folder(path))
        ]
        if both[0] == both[1]:
            columns = read_columns(table.path)
            more = column_of(columns, GROUP) or column_of(columns, SOURCE)
            return table if more else Found("imagefolder", path)
    message = f"its folders and {table.path.name} do not give the same pictures and labels"
    fix = f"choose: --format imagefolder or --format table; or take {table.path.name} away"
    raise InvalidInputError(message, field="data", value=path, fix=fix)


def _refused(message: str, path: Path) -> InvalidInputError:
    return InvalidInputError(message, field="data", value=path, fix=f"give one of: {'; '.join(LAYOUTS.values())}")
