"""Tables as text: CSV and TSV as people and spreadsheets write them.

The first line names the columns, in any case. Columns are parted by comma, semicolon or tab, whichever gives the
most of them. The text is UTF-8, with or without a mark at its beginning.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_training.data.listing import Skipped

SUFFIXES = (".csv", ".tsv")
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Table:
    """Columns, rows of cells by column, and the rows that do not fit, by their lines."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    skipped: tuple[Skipped, ...]

    def column(self, names: Sequence[str]) -> str | None:
        """The column of the first of `names` that is one, in capitals or not."""
        return column_of(self.columns, names)


def read_table(path: Path) -> Table:
    """Read a whole table. Raises InvalidInputError for what is none, OSError never."""
    text = _text(path)
    delimiter, columns = _header(path, text.partition("\n")[0])
    rows: list[Mapping[str, str]] = []
    skipped: list[Skipped] = []
    for line, cells in _rows(path, text, delimiter):
        if len(cells) == len(columns):
            rows.append(dict(zip(columns, cells, strict=True)))
        else:
            skipped.append(Skipped(f"{path.name}:{line}", f"{len(cells)} cells in the row, {len(columns)} columns"))
    return Table(columns, tuple(rows), tuple(skipped))


def read_columns(path: Path) -> tuple[str, ...]:
    """The columns alone. Raises InvalidInputError for what is no table."""
    return _header(path, _text(path, first_line=True))[1]


def column_of(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column of the first of `names` that is one, in capitals or not."""
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in names if name in lower), None)


def _text(path: Path, *, first_line: bool = False) -> str:
    fix = "save it as CSV in UTF-8"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.readline() if first_line else file.read()
    except UnicodeDecodeError as error:
        raise InvalidInputError("the table is not UTF-8", field="data", value=path, fix=fix) from error
    except OSError as error:
        raise InvalidInputError(f"it can not be read: {error.strerror}", field="data", value=path) from error


def _header(path: Path, line: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter and the columns."""
    found = [(delimiter, _cells(path, line, delimiter)) for delimiter in _DELIMITERS]
    delimiter, cells = max(found, key=lambda each: len(each[1]))
    for place, column in enumerate(cells):
        if column in cells[:place]:
            message, fix = "two columns have one name", "name each column once in the first line"
            raise InvalidInputError(message, field="data", value=f"{path.name}: {column or 'empty'}", fix=fix)
    return delimiter, tuple(cells)


def _cells(path: Path, line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(_reader(path, line, delimiter), [])]


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row behind the first that is not blank."""
    reader = _reader(path, text, delimiter)
    next(reader, None)
    for number, row in enumerate(reader, 2):
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield number, cells


def _reader(path: Path, text: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        fix = "save it again from a spreadsheet"
        raise InvalidInputError(f"the table is damaged: {error}", field="data", value=path, fix=fix) from error
