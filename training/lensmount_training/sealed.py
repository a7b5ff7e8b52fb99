"""The sealed test set: nobody gets its pictures without leaving a record, and the record is written first.

Every opening is a line in two files: one beside the split, `….opened.jsonl`, that travels with the runs, and one in the
user's data folder under the hash of the test set, which every run on this machine finds, whatever its `--out`. A line
says when, by whom, by which adapter, and the SHA-256 of the split at that time. What is known to either counts, each
adapter once. How often a set was opened goes into the package: a set that was looked at twice has begun to choose.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_training.data.dataset import Dataset, Pictures
from lensmount_training.split import Split

Opening = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Opened:
    """The pictures of the test set in the order of the data set, and the how manieth opening this is."""

    pictures: Pictures
    files: tuple[str, ...]
    number: int


class Sealed:
    """The test part of a split that lies at `path`; `folder` has the openings of all runs on this machine."""

    def __init__(self, dataset: Dataset, split: Split, path: Path, folder: Path) -> None:
        self._dataset = dataset
        self._split = split
        self._path = path
        self._folder = folder

    def __len__(self) -> int:
        return len(self._split.test)

    def check(self) -> None:
        """Raise InvalidInputError where no opening could be recorded for all runs on this machine."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def open(self, purpose: str, adapter: str) -> Opened:
        """Record the opening, durably, and give the pictures; `adapter` is the `identity` of what is judged.

        The same adapter again, after a run that was killed in between or when its package is evaluated, is the same
        opening. Raises InvalidInputError when the split is another than at an earlier opening, or nothing can be
        recorded.
        """
        split = hashlib.sha256(self._path.read_bytes()).hexdigest()
        number = self._recorded({"when": _now(), "purpose": purpose, "content": adapter, "split": split})
        wanted = set(self._split.test)
        files = tuple(picture.file for picture in self._dataset.pictures if picture.file in wanted)
        return Opened(self._dataset.take(files), files, number)

    @property
    def record(self) -> Path:
        """The file of openings beside the split."""
        return self._path.with_suffix(".opened.jsonl")

    @property
    def shared(self) -> Path:
        """The file of openings of this test set by all runs on this machine."""
        return self._folder / f"{self._split.test_hash}.jsonl"

    def _recorded(self, opening: Opening) -> int:
        """The place of this opening among all, once both files have it; the shared one has what only the other knew."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                shared, beside = (stack.enter_context(path.open("a")) for path in (self.shared, self.record))
                for file in (shared, beside):
                    fcntl.flock(file, fcntl.LOCK_EX)
                local, everywhere = openings(self.record), openings(self.shared)
                self._check_split(local, opening)
                known = _distinct((*everywhere, *local, opening))
                content = opening["content"]
                own = next(each for each in known if each["content"] == content)
                _append(shared, self.shared, _missing(known, everywhere))
                _append(beside, self.record, _missing([own], local))
                return known.index(own) + 1
        except OSError as error:
            raise _unwritable(Path(error.filename or self.record), error) from error

    def _check_split(self, earlier: Iterable[Opening], opening: Opening) -> None:
        if any(each["split"] != opening["split"] for each in earlier):
            message, fix = "the split was changed after it was opened", "put the file back as it was"
            raise InvalidInputError(message, field="split", value=self.record, fix=fix)


def identity(tensors: Mapping[str, Tensor], temperature: float, thresholds: Sequence[float]) -> str:
    """What is judged, by its numbers: the same before it is packed and when the package is read."""
    decides = (float(temperature), tuple(map(float, thresholds)))
    digest = hashlib.sha256(repr(decides).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tuple(tensor.shape)} ".encode())
        packed = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(packed.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def openings(record: Path) -> list[Opening]:
    """All openings in a file so far, oldest first."""
    if not record.is_file():
        return []
    return [json.loads(line) for line in record.read_text().splitlines() if line.endswith("}")]


def _distinct(found: Iterable[Opening]) -> list[Opening]:
    """The first opening by each adapter, in the order in which this machine learned of them."""
    first: dict[str, Opening] = {}
    for opening in found:
        first.setdefault(opening["content"], opening)
    return list(first.values())


def _missing(wanted: Iterable[Opening], there: Iterable[Opening]) -> list[Opening]:
    known = {opening["content"] for opening in there}
    return [opening for opening in wanted if opening["content"] not in known]


def _append(file: TextIO, path: Path, added: Sequence[Opening]) -> None:
    """Add lines, durably."""
    if not added:
        return
    # A line that a crash cut short must not swallow these.
    whole = not path.stat().st_size or path.read_bytes().endswith(b"\n")
    file.write("" if whole else "\n")
    file.writelines(json.dumps(opening) + "\n" for opening in added)
    file.flush()
    os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unwritable(path: Path, error: OSError) -> InvalidInputError:
    message = f"the opening of the test set can not be recorded: {error.strerror}"
    fix = "make the folder writable; XDG_DATA_HOME says where the user's own is"
    return InvalidInputError(message, field="split", value=path, fix=fix)
