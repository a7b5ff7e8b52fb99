"""One training among many: which, and what came of it; kept line by line, so that an interruption loses one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import InvalidInputError

ALL = 0


@dataclass(frozen=True, order=True)
class Cell:
    """A data set by name, labels per class (`ALL`: all there are), a strategy and a seed."""

    data: str
    labels: int
    strategy: str
    seed: int


@dataclass(frozen=True)
class Measured:
    """A cell with its figures on the test pictures; `used` are the labels of the smallest class that were there."""

    cell: Cell
    accuracy: float
    macro_f1: float
    used: int
    test_pictures: int
    seconds: float


class Results:
    """A file of what was measured, a JSON object a line; lines of an interrupted write are measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.measured: dict[Cell, Measured] = {own.cell: own for own in _read(path)}

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of `cells` that were not measured yet."""
        return [cell for cell in cells if cell not in self.measured]

    def add(self, own: Measured) -> None:
        """Keep what was measured, durably."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(own)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.measured[own.cell] = own


def _read(path: Path) -> list[Measured]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        if not line.endswith("}"):
            continue
        try:
            found.append(TypeAdapter(Measured).validate_json(line))
        except ValidationError as error:
            fix = "give another --results file, or delete the line"
            raise InvalidInputError("not a measurement", field="results", value=line[:80], fix=fix) from error
    return found
