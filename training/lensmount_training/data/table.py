"""A table of pictures: CSV or TSV, columns found by their names, paths relative to the table.

One label a picture, or several: parted by `;` or `|` in one column, or a column of zeros and ones for each label.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.assembling import Index, assemble
from lensmount_training.data.delimited import Table, column_of, read_table
from lensmount_training.data.files import below, read_file
from lensmount_training.data.labels import read_labels
from lensmount_training.data.listing import Entry, Listing, Skipped

FILE = ("file", "path", "image", "filename", "file_name")
LABEL = ("label", "labels", "class")
GROUP = ("group",)
SOURCE = ("source", "camera")
SPLIT = ("split",)
_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def is_table(columns: Sequence[str]) -> bool:
    """Whether a table with these columns names pictures and may name their labels."""
    return column_of(columns, FILE) is not None and len(columns) > 1


def list_table(path: Path) -> Listing:
    """List the pictures of a CSV or TSV file.

    A row that can not be used is skipped. Raises InvalidInputError for what is no table of pictures and labels, and
    when no row can be used.
    """
    table = read_table(path)
    file = table.column(FILE)
    if file is None:
        message = f"no column for the pictures: {', '.join(FILE)}"
        fix = "name the columns in the first line, such as file,label"
        raise InvalidInputError(message, field="data", value=", ".join(table.columns), fix=fix)
    label = table.column(LABEL)
    if label is not None:
        kind, labels = read_labels([row[label] for row in table.rows])
        known = {each for own in labels if not isinstance(own, str) for each in own}
    else:
        kind, known = "multi_label", set(_label_columns(table, path))
        labels = [_ones(row, sorted(known)) for row in table.rows]
    found = [_entry(path.parent, row, file, own) for row, own in zip(table.rows, labels, strict=True)]
    index = Index(path, path.parent, "table")
    return assemble(index, kind, known, [*table.skipped, *found], tuple(_notes(table, labels, known)))


def _entry(folder: Path, row: Mapping[str, str], file: str, labels: tuple[str, ...] | str) -> Entry | Skipped:
    """`labels` may be the reason why the row has none."""
    path = below(folder, row[file])
    reason = path if isinstance(path, str) else labels
    if isinstance(path, str) or isinstance(labels, str):
        return Skipped(row[file] or "(no name)", str(reason))
    name = path.relative_to(folder).as_posix()
    group, source = (_cell(row, names) for names in (GROUP, SOURCE))
    return Entry(name, labels, lambda: read_file(path), group=group, source=source)


def _ones(row: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...] | str:
    """Labels of a row, or why it has none."""
    for column in columns:
        if row[column].lower() not in _TRUTH:
            return f"{column} is {row[column] or 'empty'}, neither 0 nor 1"
    return tuple(column for column in columns if _TRUTH[row[column].lower()])


def _label_columns(table: Table, path: Path) -> list[str]:
    """Those of which most cells are zeros and ones: a slip in one cell is a slip, a column of words is no label."""
    known = {table.column((name,)) for name in (*FILE, *GROUP, *SOURCE, *SPLIT)}
    columns = [
        column
        for column in table.columns
        if column not in known and 2 * sum(row[column].lower() in _TRUTH for row in table.rows) > len(table.rows)
    ]
    if not columns:
        message = f"no column for the labels: {', '.join(LABEL)}, or one of zeros and ones for each label"
        fix = "name the columns in the first line, such as file,label"
        raise InvalidInputError(message, field="data", value=", ".join(table.columns), fix=fix)
    if len(columns) == 1:
        message, value = "one column of zeros and ones only", f"{path.name}: {columns[0]}"
        fix = "write a word for each of the two into a column label, such as ok and scratch"
        raise InvalidInputError(message, field="data", value=value, fix=fix)
    return columns


def _notes(table: Table, labels: Sequence[tuple[str, ...] | str], known: Collection[str]) -> Iterator[str]:
    if table.column(SPLIT):
        yield "the column split is not used: the parts are drawn anew, and the test set is sealed"
    if table.column(LABEL):
        return
    used = {*known, *(table.column((name,)) for name in (*FILE, *GROUP, *SOURCE, *SPLIT))}
    aside = [column for column in table.columns if column not in used]
    if aside:
        yield f"columns that are no zeros and ones are not used: {', '.join(aside)}"
    if all(len(own) == 1 for own in labels if not isinstance(own, str)):
        yield "every row has exactly one 1: if no picture can have two labels, write them into a column label"


def _cell(row: Mapping[str, str], names: Sequence[str]) -> str:
    column = column_of(tuple(row), names)
    return row[column] if column else ""
