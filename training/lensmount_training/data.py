"""Pictures in: an ImageFolder, every file opened once.

A class is a sub-folder, in the order of their names. A file that is no readable picture is
skipped and listed; so is a byte-for-byte copy of an earlier one, since a copy in the test
set of a picture that was trained on would flatter the result. No file stops the run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError, LensmountError, TooLargeError
from lensmount_adapters.pictures import decode_picture
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_training.progress import Progress

MIN_PER_CLASS = 5
MAX_LABEL_LENGTH = 100
MAX_LABELS = 1000
# They lie in memory twice while a part is taken out.
MAX_PREPARED_BYTES = 2 << 30
LAYOUT = "put the pictures of each class into a folder of its own, such as parts/scratch/0001.jpg"


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture: path below the data folder, index of its label, SHA-256 of the file.

    `pixels` is what preprocessing made of it: uint8 RGB (3, height, width) of the backbone's input.
    """

    file: str
    label: int
    digest: str
    pixels: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """The pictures of a folder in the order of their paths, and the files that were skipped."""

    folder: Path
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[Skipped, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over the names and the content of the pictures that are used."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(os.fsencode(f"{picture.digest} {picture.file}\n"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Pictures:
    """A part of a dataset: uint8 pixels (n, 3, height, width) and targets int64 (n,)."""

    pixels: Tensor
    targets: Tensor

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> Pictures:
        """Stack pictures of one preprocessing."""
        return cls(
            torch.stack([picture.pixels for picture in pictures]),
            torch.tensor([picture.label for picture in pictures]),
        )

    def __len__(self) -> int:
        return len(self.targets)


def read_folder(folder: Path, preprocessing: Preprocessing, progress: Progress) -> Dataset:
    """Read an ImageFolder (JPEG, PNG, WebP, BMP; hidden files are left alone).

    Raises InvalidInputError for a folder that can not be trained on: missing, no or one class, a
    class without or with fewer than `MIN_PER_CLASS` pictures; TooLargeError beyond `MAX_PREPARED_BYTES`.
    """
    labels = _labels(folder)
    files = [list(_files(folder / label)) for label in labels]
    _check_classes(labels, [len(own) for own in files], "files")
    _check_memory(sum(map(len, files)), preprocessing)
    reader = _Reader(folder, preprocessing)
    bar = progress.bar("reading pictures", sum(map(len, files)))
    for index, own in enumerate(files):
        for path in own:
            reader.read(path, index)
            bar.advance()
    dataset = Dataset(folder, labels, tuple(reader.pictures), tuple(reader.skipped))
    for skipped in dataset.skipped:
        progress.say(f"skipped {skipped.file}: {skipped.reason}")
    counts = [sum(picture.label == index for picture in dataset.pictures) for index in range(len(labels))]
    _check_classes(labels, counts, "readable pictures")
    return dataset


class _Reader:
    """Reads files one by one; keeps what is good and says what is not."""

    def __init__(self, folder: Path, preprocessing: Preprocessing) -> None:
        self.pictures: list[Picture] = []
        self.skipped: list[Skipped] = []
        self._folder = folder
        self._preprocessing = preprocessing
        self._first: dict[str, str] = {}

    def read(self, path: Path, label: int) -> None:
        name = path.relative_to(self._folder).as_posix()
        try:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest in self._first:
                self._skip(name, f"the same bytes as {self._first[digest]}")
                return
            pixels = self._preprocessing.prepare(decode_picture(data))
        except LensmountError as error:
            self._skip(name, error.message)
        except OSError as error:
            self._skip(name, error.strerror or str(error))
        else:
            self._first[digest] = name
            self.pictures.append(Picture(name, label, digest, pixels))

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append(Skipped(name, reason))


def _labels(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InvalidInputError("no such folder", field="folder", value=folder, fix="give the folder of your pictures")
    labels = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not labels:
        raise InvalidInputError("no class folder in it", field="folder", value=folder, fix=LAYOUT)
    if len(labels) == 1:
        message = "one class only; there is nothing to tell apart"
        fix = "add a folder with pictures of another class, such as parts/ok/"
        raise InvalidInputError(message, field="folder", value=labels[0], fix=fix)
    if len(labels) > MAX_LABELS:
        message = f"at most {MAX_LABELS} classes"
        raise InvalidInputError(message, field="folder", value=len(labels), fix="give the folder above the classes")
    for label in labels:
        _check_label(label)
    return labels


def _check_label(label: str) -> None:
    if len(label) > MAX_LABEL_LENGTH or not label.isprintable():
        message = f"a class name has at most {MAX_LABEL_LENGTH} printable characters"
        raise InvalidInputError(message, field="folder", value=ascii(label), fix="rename the folder")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            yield path


def _check_classes(labels: Sequence[str], counts: Sequence[int], what: str) -> None:
    if not any(counts):
        raise InvalidInputError(f"no {what} in any class folder", field="folder", value=", ".join(labels), fix=LAYOUT)
    for label, count in zip(labels, counts, strict=True):
        if count == 0:
            fix = f"add pictures to {label}/, or remove the folder"
            raise InvalidInputError(f"the class has no {what}", field="folder", value=label, fix=fix)
        if count < MIN_PER_CLASS:
            message = f"the class has {count} {what}, at least {MIN_PER_CLASS} are needed"
            fix = f"add pictures to {label}/, or remove the folder"
            raise InvalidInputError(message, field="folder", value=label, fix=fix)


def _check_memory(count: int, preprocessing: Preprocessing) -> None:
    needed = count * 3 * preprocessing.height * preprocessing.width
    if needed > MAX_PREPARED_BYTES:
        message = (
            f"{count:,} pictures need {needed / 2**30:.1f} GiB of memory, {MAX_PREPARED_BYTES / 2**30:.0f} are used"
        )
        raise TooLargeError(message, field="folder", fix="train on fewer pictures, or on a backbone with smaller input")
