"""Train, validation and a sealed test set: stratified, seeded, written once.

The order of a class's pictures is that of SHA-256(seed, content), not of their names, so
renaming a file moves nothing and adding pictures moves few. The file carries the hash of the
data and the seed in its name and is never written again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import InvalidInputError
from lensmount_training.data import Dataset, Picture, Pictures

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class Split:
    """Which files are in which part; every file of the data in exactly one."""

    data_hash: str
    seed: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def draw_split(dataset: Dataset, seed: int) -> Split:
    """Of each class at least `TEST_SHARE` to test, `VALIDATION_SHARE` of the rest to validation, one at least."""
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for label in range(len(dataset.labels)):
        own = sorted((p for p in dataset.pictures if p.label == label), key=lambda p: _place(p, seed))
        test = math.ceil(TEST_SHARE * len(own))
        validation = max(1, round(VALIDATION_SHARE * (len(own) - test)))
        cuts = (own[test + validation :], own[test : test + validation], own[:test])
        for part, pictures in zip(parts, cuts, strict=True):
            part.extend(picture.file for picture in pictures)
    train, validation_files, test_files = (tuple(sorted(part)) for part in parts)
    return Split(dataset.hash, seed, train, validation_files, test_files)


def split_once(dataset: Dataset, seed: int, beside: Path) -> Split:
    """The split of this data and seed: read where an earlier run wrote it, else drawn and written.

    `beside` is the folder of the package that will be trained; the file stands next to it.
    Raises InvalidInputError when the file was changed by hand.
    """
    path = split_file(beside, dataset.hash, seed)
    if path.is_file():
        return _read(path, dataset, seed)
    split = draw_split(dataset, seed)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(split), indent=1) + "\n")
    partial.replace(path)
    return split


def split_file(beside: Path, data_hash: str, seed: int) -> Path:
    """Where the split of this data and seed is kept."""
    return beside.parent / f"split-{data_hash[:12]}-seed{seed}.json"


def take(dataset: Dataset, files: Sequence[str]) -> Pictures:
    """The pictures of one part."""
    wanted = set(files)
    return Pictures.of([picture for picture in dataset.pictures if picture.file in wanted])


def _place(picture: Picture, seed: int) -> str:
    return hashlib.sha256(f"{seed} {picture.digest}".encode()).hexdigest()


def _read(path: Path, dataset: Dataset, seed: int) -> Split:
    fix = "delete the file; the split is drawn again"
    try:
        split = TypeAdapter(Split).validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidInputError("not a split file", field="split", value=path, fix=fix) from error
    files = sorted((*split.train, *split.validation, *split.test))
    whole = files == sorted(picture.file for picture in dataset.pictures)
    if (split.data_hash, split.seed) != (dataset.hash, seed) or not whole:
        raise InvalidInputError("the split does not fit the data", field="split", value=path, fix=fix)
    return split
