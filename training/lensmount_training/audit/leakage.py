"""What would flatter a test: one picture, one group or one source in two parts of a split, or under two labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lensmount.errors import InvalidInputError
from lensmount_training.audit.duplicates import Duplicates
from lensmount_training.data.dataset import Dataset

Split = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Leak:
    """Files that should be in one part of the split, or under one label, and are in several.

    `kind` is "near-duplicates", "copies", "group" or "source"; `across` names the parts or the labels.
    """

    kind: str
    name: str
    files: tuple[str, ...]
    across: tuple[str, ...]


@dataclass(frozen=True)
class Leakage:
    """Over labels, and over the parts of a split; `parts` is empty without a split, or when nothing leaks."""

    labels: tuple[Leak, ...]
    parts: tuple[Leak, ...]


def find_leakage(dataset: Dataset, duplicates: Duplicates, split: Split | None) -> Leakage:
    """Raises InvalidInputError for a split that names a file that is not there, or one file twice."""
    labels = {picture.file: tuple(dataset.labels[label] for label in picture.labels) for picture in dataset.pictures}
    copies = [(skip.copy_of, skip.file) for skip in dataset.skipped if skip.copy_of]
    labels |= {skip.file: skip.labels for skip in dataset.skipped if skip.copy_of}
    alike = [
        *(("near-duplicates", "", tuple(sorted(files))) for files in duplicates.sets),
        *(("copies", "", pair) for pair in copies),
    ]
    across = tuple(_leaks(alike, {file: " + ".join(own) or "no label" for file, own in labels.items()}))
    if split is None:
        return Leakage(across, ())
    parts = _parts(split, labels)
    groups = _collected("group", ((picture.group, picture.file) for picture in dataset.pictures))
    sources = _collected("source", ((picture.source, picture.file) for picture in dataset.pictures))
    known = {name: files for _, name, files in groups}
    sources = [own for own in sources if known.get(own[1]) != own[2]]
    return Leakage(across, tuple(_leaks([*alike, *groups, *sources], parts)))


def _parts(split: Split, known: Mapping[str, object]) -> dict[str, str]:
    """The part of every file."""
    parts: dict[str, str] = {}
    for part, files in split.items():
        for file in files:
            if file in parts:
                message, fix = f"a file is in {parts[file]} and in {part}", "leave it in one part"
                raise InvalidInputError(message, field="split", value=file, fix=fix)
            if file not in known:
                fix = "give the split of this data, with names below its folder"
                raise InvalidInputError("no such picture in the data", field="split", value=file, fix=fix)
            parts[file] = part
    return parts


def _collected(kind: str, named: Iterable[tuple[str, str]]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Files by a name that is not empty."""
    members: dict[str, list[str]] = {}
    for name, file in named:
        if name:
            members.setdefault(name, []).append(file)
    return [(kind, name, tuple(files)) for name, files in members.items()]


def _leaks(together: Iterable[tuple[str, str, tuple[str, ...]]], place: Mapping[str, str]) -> Iterator[Leak]:
    for kind, name, files in together:
        across = sorted({place[file] for file in files if file in place})
        if len(across) > 1:
            yield Leak(kind, name, files, tuple(across))
