"""Train, validation and a sealed test set: stratified, grouped, seeded, written once.

Pictures that belong together (a sequence, a camera, a day; near-duplicates) are one unit and never parted. The order of
a class's units is that of SHA-256(seed, content), not of their names, so renaming a file moves nothing and adding
pictures moves few. The file carries the hash of the data and the seed in its name and is never written again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import InvalidInputError
from lensmount_training.data.dataset import Dataset, Picture
from lensmount_training.saving import put
from lensmount_training.unsplit import missing_class, too_few_groups, too_much_alike

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.15
PARTS = ("test", "validation", "train")
AGAIN = "delete the file; the split is drawn again"
# Stands for "no label" in multi-label data, which is divided evenly too.
UNLABELLED = -1
# Orders that are tried before a class counts as one that can not be in every part.
DRAWS = 20


@dataclass(frozen=True)
class Split:
    """Which files are in which part; every file of the data in exactly one. `test_hash` names the sealed content."""

    data_hash: str
    seed: int
    test_hash: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Unit:
    """Pictures that stay together: their files, how many there are of each label, and their place in the order."""

    files: tuple[str, ...]
    labels: Counter[int]
    place: str


def draw_split(dataset: Dataset, seed: int, together: Iterable[Collection[str]] = ()) -> Split:
    """Of each class at least `TEST_SHARE` to test, `VALIDATION_SHARE` of the rest to validation, one unit at least.

    `together` are sets of files that must not be parted, beside the groups of the data. The rarest label is divided
    first (Sechidis et al., ECML 2011); where a class comes to be missing from a part, other orders are tried. Raises
    InvalidInputError for a class that has too few units, or that is missing from a part in all of them.
    """
    alike = tuple(together)
    units = _units(dataset, seed, alike)
    _check_units(dataset, units, alike)
    for draw in range(DRAWS):
        parts = _drawn(_ordered(units, draw))
        if not _missing(dataset, parts):
            break
    else:
        part, label = _missing(dataset, parts)[0]
        raise missing_class(dataset, label, f"{part} part in {DRAWS} draws", alike)
    test, validation, train = (tuple(sorted(file for unit in parts[part] for file in unit.files)) for part in PARTS)
    return Split(dataset.hash, seed, hash_of(dataset, test), train, validation, test)


def split_once(dataset: Dataset, seed: int, beside: Path, together: Iterable[Collection[str]] = ()) -> Split:
    """The split of this data and seed: read where an earlier run wrote it, else drawn and written.

    `beside` is the folder of the package that will be trained; the file stands next to it.
    Raises InvalidInputError when the file was changed by hand.
    """
    path = split_file(beside, dataset.hash, seed)
    if path.is_file():
        return read_split(path, dataset)
    split = draw_split(dataset, seed, together)
    put(path, json.dumps(asdict(split), indent=1) + "\n")
    return split


def split_file(beside: Path, data_hash: str, seed: int) -> Path:
    """Where the split of this data and seed is kept."""
    return beside.parent / f"split-{data_hash[:12]}-seed{seed}.json"


def read_split(path: Path, dataset: Dataset) -> Split:
    """Read a split; raises InvalidInputError when it is none, or none of this data."""
    split = load_split(path)
    files = sorted((*split.train, *split.validation, *split.test))
    whole = files == sorted(picture.file for picture in dataset.pictures)
    if split.data_hash != dataset.hash or not whole or split.test_hash != hash_of(dataset, split.test):
        raise InvalidInputError("the split does not fit the data", field="split", value=path, fix=AGAIN)
    return split


def load_split(path: Path) -> Split:
    """Read a split of whatever data; raises InvalidInputError when it is none."""
    try:
        return TypeAdapter(Split).validate_json(path.read_bytes())
    except ValidationError as error:
        raise InvalidInputError("not a split file", field="split", value=path, fix=AGAIN) from error


def seals(split: Split, dataset: Dataset) -> bool:
    """Whether the whole test set is among these pictures, however they are grouped and whatever is with them."""
    return hash_of(dataset, split.test) == split.test_hash


def hash_of(dataset: Dataset, files: Sequence[str]) -> str:
    """SHA-256 over the content of these pictures, whatever their names and order."""
    wanted = set(files)
    digests = sorted(picture.digest for picture in dataset.pictures if picture.file in wanted)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def shares_of(count: int) -> dict[str, int]:
    """How many pictures of a class of `count` go to each part, by its name, where none belong together."""
    test = math.ceil(TEST_SHARE * count)
    validation = max(1, round(VALIDATION_SHARE * (count - test)))
    return {"test": test, "validation": validation, "train": count - test - validation}


def _ordered(units: Sequence[_Unit], draw: int) -> Sequence[_Unit]:
    """The units by their places, or in another order for every further draw of the same seed."""
    if draw == 0:
        return units
    return sorted(units, key=lambda unit: hashlib.sha256(f"{draw} {unit.place}".encode()).hexdigest())


def _drawn(units: Sequence[_Unit]) -> dict[str, list[_Unit]]:
    """All units to parts, label by label."""
    parts: dict[str, list[_Unit]] = {part: [] for part in PARTS}
    left = list(units)
    have = Counter[int]()
    for unit in units:
        have.update(unit.labels)
    for label in sorted(have, key=lambda label: (have[label], label)):
        already = {part: sum(unit.labels[label] for unit in own) for part, own in parts.items()}
        wanted = {part: count - already[part] for part, count in shares_of(have[label]).items()}
        for part, chosen in _divide([unit for unit in left if unit.labels[label]], wanted, label).items():
            parts[part] += chosen
        left = [unit for unit in left if not unit.labels[label]]
    return parts


def _divide(units: Sequence[_Unit], wanted: dict[str, int], label: int) -> dict[str, list[_Unit]]:
    """Units to parts, so that each gets about as many pictures of the label as wanted, the test set never fewer.

    Large units go first, each to the part that lacks most; single pictures by their order, one part after the other.
    """
    parts: dict[str, list[_Unit]] = {part: [] for part in PARTS}
    lacking = dict(wanted)
    sized = sorted(units, key=lambda unit: -unit.labels[label])
    for place, unit in enumerate(sized):
        empty = [part for part in PARTS if not parts[part] and lacking[part] > 0]
        if len(sized) - place <= len(empty):
            part = max(empty, key=lambda part: lacking[part])
        elif unit.labels[label] == 1:
            part = next((part for part in PARTS if lacking[part] > 0), "train")
        else:
            part = max(PARTS, key=lambda part: lacking[part])
        parts[part].append(unit)
        lacking[part] -= unit.labels[label]
    while lacking["test"] > 0 and len(parts["train"]) > 1:
        moved = min(parts["train"], key=lambda unit: unit.labels[label])
        parts["train"].remove(moved)
        parts["test"].append(moved)
        lacking["test"] -= moved.labels[label]
    return parts


def _units(dataset: Dataset, seed: int, together: Iterable[Collection[str]]) -> list[_Unit]:
    roots = _joined(dataset.pictures, together)
    own: dict[str, list[Picture]] = {}
    for picture in dataset.pictures:
        own.setdefault(roots[picture.file], []).append(picture)
    units = [_unit(pictures, seed) for pictures in own.values()]
    return sorted(units, key=lambda unit: unit.place)


def _unit(pictures: Sequence[Picture], seed: int) -> _Unit:
    labels = Counter(label for picture in pictures for label in picture.labels or (UNLABELLED,))
    content = min(picture.digest for picture in pictures)
    place = hashlib.sha256(f"{seed} {content}".encode()).hexdigest()
    return _Unit(tuple(picture.file for picture in pictures), labels, place)


def _joined(pictures: Sequence[Picture], together: Iterable[Collection[str]]) -> dict[str, str]:
    """By file, one file that stands for all that it stays together with."""
    parent = {picture.file: picture.file for picture in pictures}

    def root(file: str) -> str:
        while parent[file] != file:
            parent[file] = parent[parent[file]]
            file = parent[file]
        return file

    groups: dict[str, list[str]] = {}
    for picture in pictures:
        if picture.group:
            groups.setdefault(picture.group, []).append(picture.file)
    for files in (*groups.values(), *together):
        known = [file for file in files if file in parent]
        for file in known[1:]:
            parent[root(file)] = root(known[0])
    return {file: root(file) for file in parent}


def _check_units(dataset: Dataset, units: Sequence[_Unit], alike: Sequence[Collection[str]]) -> None:
    """Raise InvalidInputError for a class that can not be in every part, and say what keeps its pictures together."""
    grouped = _units(dataset, 0, ()) if alike else units
    for label in range(len(dataset.labels)):
        count, before = (sum(unit.labels[label] > 0 for unit in own) for own in (units, grouped))
        if 0 < count < len(PARTS) <= before:
            raise too_much_alike(dataset, label, count, alike)
        if 0 < count < len(PARTS):
            raise too_few_groups(dataset, label, count)


def _missing(dataset: Dataset, parts: dict[str, list[_Unit]]) -> list[tuple[str, int]]:
    """Parts and the labels that are not in them."""
    there = {part: {label for unit in units for label in unit.labels} for part, units in parts.items()}
    return [(part, label) for part in PARTS for label in range(len(dataset.labels)) if label not in there[part]]
