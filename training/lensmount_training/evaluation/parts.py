"""Which pictures of a data set are judged: all, or a part of a split, whose sealed test set is opened on the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensmount.errors import InvalidInputError
from lensmount_training.data import Dataset
from lensmount_training.sealed import Sealed
from lensmount_training.split import Split, load_split, read_split, seals, split_file

PartName = Literal["all", "test", "validation"]
KNOWN = "Those that the adapter was trained on make it look better than it is."
WARNING = (
    "The sealed test set is among these pictures: this is on record as an opening of it. "
    "--part validation leaves it sealed."
)


@dataclass(frozen=True)
class Chosen:
    """Names of pictures, a sentence that says what they are and how often they were looked at before, and a warning."""

    files: tuple[str, ...]
    words: str
    warning: str = ""


@dataclass(frozen=True)
class Origin:
    """The package that is judged: where it lies, and of what data and with which seed its split was drawn.

    `adapters` are all that see the pictures, it and what it is compared with: names and identities.
    """

    package: Path
    data_hash: str
    seed: int
    adapters: tuple[tuple[str, str], ...]


def choose(part: PartName, dataset: Dataset, origin: Origin, openings: Path, split: Path | None = None) -> Chosen:
    """The pictures of a part of the split that a package was trained with; all of them need none.

    `split` is the split's file, by default the one beside the package. That a test set was opened is noted there and in
    the folder `openings`, also where it is among all the pictures. Raises InvalidInputError where there is no such
    split, or it is of other data.
    """
    found = _known(dataset, origin, split)
    if part == "all" and not split and not found:
        return Chosen(_all(dataset), f"All pictures of the data. {KNOWN}")
    if not found or (part == "validation" and found[1].data_hash != dataset.hash):
        message = "no split of this data is known here"
        fix = "give --split FILE, or --part all on pictures that were kept aside"
        raise InvalidInputError(message, field="part", value=part, fix=fix)
    path, known = found
    if part == "validation":
        return Chosen(known.validation, "The validation pictures, by which the adapter was chosen: it knows them.")
    number = _opened(Sealed(dataset, known, path, openings), origin)
    if part == "test":
        sealed = set(known.test)
        return Chosen(tuple(file for file in _all(dataset) if file in sealed), sealed_words(number))
    words = f"All pictures of the data, with the sealed test set, which was opened {_times(number)} so far. {KNOWN}"
    return Chosen(_all(dataset), words, WARNING)


def sealed_words(number: int) -> str:
    """What the pictures of a sealed test set are, after so many openings."""
    return f"The sealed test set; it was opened {_times(number)} so far."


def _known(dataset: Dataset, origin: Origin, given: Path | None) -> tuple[Path, Split] | None:
    """The split that is given, or that of these pictures beside the package, with its file.

    Where the pictures are grouped in another way, or are more by now, it is the package's own split, as long as all its
    sealed pictures are among them.
    """
    own = given or split_file(origin.package, dataset.hash, origin.seed)
    if own.is_file():
        return own, read_split(own, dataset)
    trained = split_file(origin.package, origin.data_hash, origin.seed)
    if given or not trained.is_file():
        return None
    split = load_split(trained)
    return (trained, split) if seals(split, dataset) else None


def _all(dataset: Dataset) -> tuple[str, ...]:
    return tuple(picture.file for picture in dataset.pictures)


def _opened(sealed: Sealed, origin: Origin) -> int:
    """Open for every adapter; how often the set was opened by then."""
    return max(sealed.open(f"evaluate {name}", adapter).number for name, adapter in origin.adapters)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
