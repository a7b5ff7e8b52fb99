"""The sealed test set: nobody gets its pictures without leaving a record, and the record is written first.

Beside a split's file lies another, `….opened.jsonl`, with a line for every opening: when, by whom, and the SHA-256 of
the split at that time. How often a set was opened goes into the package: a set that was looked at twice has begun
to choose.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lensmount.errors import InvalidInputError
from lensmount_training.data.dataset import Dataset, Pictures
from lensmount_training.split import Split


@dataclass(frozen=True, eq=False)
class Opened:
    """The pictures of the test set in the order of the data set, and the how manieth opening this is."""

    pictures: Pictures
    files: tuple[str, ...]
    number: int


class Sealed:
    """The test part of a split that lies at `path`."""

    def __init__(self, dataset: Dataset, split: Split, path: Path) -> None:
        self._dataset = dataset
        self._split = split
        self._path = path

    def __len__(self) -> int:
        return len(self._split.test)

    def open(self, purpose: str, content: str = "") -> Opened:
        """Record the opening, durably, and give the pictures; `content` names what is judged.

        The same `content` again, as after a run that was killed in between, is the same opening.
        Raises InvalidInputError when the split is another than at an earlier opening, or nothing can be recorded.
        """
        number = _record(self.record, hashlib.sha256(self._path.read_bytes()).hexdigest(), purpose, content)
        wanted = set(self._split.test)
        files = tuple(picture.file for picture in self._dataset.pictures if picture.file in wanted)
        return Opened(self._dataset.take(files), files, number)

    @property
    def record(self) -> Path:
        """The file of its openings."""
        return self._path.with_suffix(".opened.jsonl")


def openings(record: Path) -> list[dict[str, Any]]:
    """All openings so far, oldest first."""
    if not record.is_file():
        return []
    return [json.loads(line) for line in record.read_text().splitlines() if line.endswith("}")]


def _record(record: Path, split: str, purpose: str, content: str) -> int:
    try:
        with record.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = openings(record)
            if any(opening["split"] != split for opening in before):
                message, fix = "the split was changed after it was opened", "put the file back as it was"
                raise InvalidInputError(message, field="split", value=record, fix=fix)
            again = [
                place for place, opening in enumerate(before, start=1) if content and opening["content"] == content
            ]
            if again:
                return again[-1]
            when = datetime.now(UTC).isoformat(timespec="seconds")
            line = json.dumps({"when": when, "purpose": purpose, "content": content, "split": split})
            # A line that a crash cut short must not swallow this one.
            whole = not record.stat().st_size or record.read_bytes().endswith(b"\n")
            file.write(f"{'' if whole else chr(10)}{line}\n")
            file.flush()
            os.fsync(file.fileno())
            return len(before) + 1
    except OSError as error:
        message = f"the opening of the test set can not be recorded: {error.strerror}"
        raise InvalidInputError(message, field="split", value=record, fix="make the folder writable") from error
