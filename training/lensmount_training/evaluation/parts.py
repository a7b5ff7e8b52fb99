"""Which pictures of a data set are judged: all, or a part of a split, whose sealed test set is opened on the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lensmount.errors import InvalidInputError
from lensmount_training.data import Dataset

PartName = Literal["all", "test", "validation"]


@dataclass(frozen=True)
class Chosen:
    """Names of pictures, and a sentence that says what they are and how often they were looked at before."""

    files: tuple[str, ...]
    words: str


class Parts(Protocol):
    """Knows the parts of data sets and keeps the book of who opened a test set."""

    def open(self, part: Literal["test", "validation"], dataset: Dataset, package: Path, split: Path | None) -> Chosen:
        """The pictures of a part of the split that a package was trained with; notes that a test set was opened.

        `split` is the split's file where one was named. Raises InvalidInputError where there is no such split.
        """


def choose(part: PartName, dataset: Dataset, package: Path, split: Path | None, parts: Parts | None) -> Chosen:
    """The pictures of a part; all of them need no split. Raises InvalidInputError for a part that nobody knows."""
    if part == "all":
        files = tuple(picture.file for picture in dataset.pictures)
        words = "All pictures of the folder. Those that the adapter was trained on make it look better than it is."
        return Chosen(files, words)
    if parts is None:
        message, fix = "no split of this data is known here", "use --part all on pictures that were kept aside"
        raise InvalidInputError(message, field="part", value=part, fix=fix)
    return parts.open(part, dataset, package, split)
