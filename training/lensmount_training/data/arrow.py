"""A data set that Hugging Face's `datasets` wrote with `save_to_disk`: one, or all its splits joined.

Pictures come from the column of Image features, or one of bytes or paths; labels from a column of class labels or
words, one or several a row. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from lensmount.errors import InvalidInputError
from lensmount_adapters.pictures import Pixels
from lensmount_training.data.assembling import Index, assemble
from lensmount_training.data.delimited import column_of
from lensmount_training.data.files import decode_bytes, read_bytes
from lensmount_training.data.listing import Content, Entry, Kind, Listing, Skipped
from lensmount_training.data.table import GROUP, LABEL, SOURCE

IMAGE = ("image", "img", "picture", "file", "path", "bytes")
_FIX = "save it again with save_to_disk"


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what."""

    image: str
    label: str
    group: str | None
    source: str | None


def is_arrow(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    one = (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def list_arrow(folder: Path) -> Listing:
    """List the rows of a data set on disk.

    A row without a usable label is skipped. Raises InvalidInputError when `datasets` is not installed, for a folder
    that it can not load, for columns that are not clear, and when nothing is left.
    """
    found: list[Entry | Skipped] = []
    labels: set[str] = set()
    kinds: set[Kind] = set()
    for split, rows in _load(folder).items():
        columns = _columns(folder, rows.features)
        kind, own = _labels(rows.features[columns.label], rows.data.column(columns.label).to_pylist())
        kinds.add(kind)
        labels.update(label for each in own if not isinstance(each, str) for label in each)
        found.extend(_entries(folder, split, rows, columns, own))
    if len(kinds) > 1:
        message = "one split has one label a picture, another has several"
        raise InvalidInputError(message, field="data", value=folder, fix="give the folder of one split")
    return assemble(Index(folder, folder, "arrow"), kinds.pop(), labels, found)


def _load(folder: Path) -> dict[str, Any]:
    """Rows by split; a data set without splits is one without a name."""
    try:
        import datasets  # noqa: PLC0415 half a second, and only for those who have such a folder
    except ImportError as error:
        message, fix = "a data set of this form needs datasets", "pip install datasets"
        raise InvalidInputError(message, field="data", value=folder, fix=fix) from error
    try:
        loaded: Any = datasets.load_from_disk(os.fspath(folder))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:  # its parsers and pyarrow's
        message = f"the data set is damaged: {error}"
        raise InvalidInputError(message, field="data", value=folder, fix=_FIX) from error
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    if not any(len(rows) for rows in splits.values()):
        raise InvalidInputError("the data set has no rows", field="data", value=folder, fix=_FIX)
    return splits


def _columns(folder: Path, features: Mapping[str, Any]) -> _Columns:
    """An Image feature whatever it is called; a label by its name, else the one column of class labels."""
    columns = tuple(features)
    pictures = _of_kind(features, "Image")
    image = pictures[0] if len(pictures) == 1 else column_of(pictures or columns, IMAGE)
    if image is None:
        raise _unclear(folder, "image", pictures or columns)
    classes = _of_kind(features, "ClassLabel")
    label = column_of(columns, LABEL) or (classes[0] if len(classes) == 1 else None)
    if label is None:
        raise _unclear(folder, "label", classes or columns)
    return _Columns(image, label, column_of(columns, GROUP), column_of(columns, SOURCE))


def _of_kind(features: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """Columns of a kind of feature, or of lists of it."""
    return tuple(
        name
        for name, feature in features.items()
        if kind in (type(feature).__name__, type(getattr(feature, "feature", None)).__name__)
    )


def _unclear(folder: Path, name: str, columns: Sequence[str]) -> InvalidInputError:
    message = f"{folder.name} has no column that is clearly the {name} of a row"
    return InvalidInputError(message, field="data", value=", ".join(columns), fix=f"call the column {name}")


def _labels(feature: Any, cells: Sequence[Any]) -> tuple[Kind, list[tuple[str, ...] | str]]:
    """Labels of every row, or why it has none."""
    inner = getattr(feature, "feature", None)
    names = getattr(inner or feature, "names", None)
    if inner is None:
        return "single_label", [_label(cell, names) for cell in cells]
    return "multi_label", [_all(cell, names) for cell in cells]


def _label(cell: Any, names: Sequence[str] | None) -> tuple[str, ...] | str:
    if cell is None or cell == "" or (names is not None and not 0 <= cell < len(names)):
        return "no label"
    return (names[cell] if names is not None else str(cell).strip(),)


def _all(cells: Sequence[Any] | None, names: Sequence[str] | None) -> tuple[str, ...] | str:
    if cells is None:
        return "no label"
    found = [_label(cell, names) for cell in cells]
    return tuple(dict.fromkeys(label for own in found if not isinstance(own, str) for label in own))


def _entries(
    folder: Path, split: str, rows: Any, columns: _Columns, labels: Sequence[tuple[str, ...] | str]
) -> Iterator[Entry | Skipped]:
    pictures = _Pictures(folder, rows.data.column(columns.image))
    groups, sources = (_texts(rows, column) for column in (columns.group, columns.source))
    for place, (name, own) in enumerate(zip(pictures.names(), labels, strict=True)):
        file = f"{split}/{name}" if split else name
        if isinstance(own, str):
            yield Skipped(file, own)
        else:
            yield Entry(file, own, partial(pictures.read, place), group=groups[place], source=sources[place])


def _texts(rows: Any, column: str | None) -> list[str]:
    if column is None:
        return [""] * len(rows)
    return ["" if cell is None else str(cell) for cell in rows.data.column(column).to_pylist()]


class _Pictures:
    """The pictures of one split, by row: bytes, paths, or structs of both (a pyarrow ChunkedArray)."""

    def __init__(self, folder: Path, cells: Any) -> None:
        self._folder = folder
        self._cells = cells

    def names(self) -> list[str]:
        """The names of the files that they came from; where two are the same, or there is none, the row's number."""
        import pyarrow as pa  # noqa: PLC0415 see _load
        import pyarrow.compute as pc  # noqa: PLC0415

        paths = pc.struct_field(self._cells, "path") if pa.types.is_struct(self._cells.type) else self._cells
        texts = pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)
        known = paths.to_pylist() if texts else [None] * len(paths)
        names = [PurePath(path or "").name for path in known]
        if all(names) and len(set(names)) == len(names):
            return names
        return [f"{place}-{name}" if name else str(place) for place, name in enumerate(names)]

    def read(self, place: int) -> Content:
        """The picture of a row; its bytes are its digest."""
        digest = hashlib.sha256(self._bytes(place)).hexdigest()
        return Content(digest, lambda: self._decode(place, digest))

    def _decode(self, place: int, digest: str) -> Pixels:
        return decode_bytes(self._bytes(place), digest, self._folder)

    def _bytes(self, place: int) -> bytes:
        cell = self._cells[place].as_py()
        data, path = (cell["bytes"], cell["path"]) if isinstance(cell, dict) else (cell, cell)
        if isinstance(data, bytes):
            return data
        if not isinstance(path, str):
            raise InvalidInputError("no picture in the row", field="data", value=place, fix=_FIX)
        return read_bytes(self._folder / path)
