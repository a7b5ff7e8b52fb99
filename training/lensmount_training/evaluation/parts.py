"""Which pictures of a data set are judged: all, or a part of a split, whose sealed test set is opened on the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensmount.errors import InvalidInputError
from lensmount_training.data import Dataset
from lensmount_training.sealed import Sealed
from lensmount_training.split import read_split, split_file

PartName = Literal["all", "test", "validation"]


@dataclass(frozen=True)
class Chosen:
    """Names of pictures, and a sentence that says what they are and how often they were looked at before."""

    files: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Origin:
    """The package that is judged: where it lies, its content hash, and the seed of its split."""

    package: Path
    content_hash: str
    seed: int


def choose(part: PartName, dataset: Dataset, origin: Origin, split: Path | None = None) -> Chosen:
    """The pictures of a part of the split that a package was trained with; all of them need none.

    `split` is the split's file, by default the one beside the package. That a test set was opened is noted.
    Raises InvalidInputError where there is no such split, or it is of other data.
    """
    if part == "all":
        files = tuple(picture.file for picture in dataset.pictures)
        words = "All pictures of the data. Those that the adapter was trained on make it look better than it is."
        return Chosen(files, words)
    path = split or split_file(origin.package, dataset.hash, origin.seed)
    if not path.is_file():
        message = "no split of this data is known here"
        fix = "give --split FILE, or --part all on pictures that were kept aside"
        raise InvalidInputError(message, field="part", value=part, fix=fix)
    known = read_split(path, dataset)
    if part == "validation":
        return Chosen(known.validation, "The validation pictures, by which the adapter was chosen: it knows them.")
    opened = Sealed(dataset, known, path).open(f"evaluate {origin.package.name}", origin.content_hash)
    return Chosen(opened.files, sealed_words(opened.number))


def sealed_words(number: int) -> str:
    """What the pictures of a sealed test set are, after so many openings."""
    return f"The sealed test set; it was opened {_times(number)} so far."


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
