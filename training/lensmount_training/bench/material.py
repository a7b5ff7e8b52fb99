"""Pictures for a bench, as files: those of a person's folder, and random crops of them where they are too few."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.data.dataset import Dataset, Pictures
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import MIN_PER_CLASS, read
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import Problem

# Of scikit-image, 512 pixels a side.
PHOTOGRAPHS = ("brick", "grass", "gravel")
VALIDATION_SHARE = 0.2
# What a crop keeps of each side.
KEPT = (0.5, 0.9)
QUALITY = 90


@dataclass(frozen=True)
class Material:
    """Two ImageFolders of the same labels."""

    train: Path
    validation: Path

    def problem(self, backbone: Backbone, cache: Path) -> Problem:
        """What a run would learn; listed, opened and decoded, or found in the cache."""
        train, validation = (dataset_of(folder, backbone, cache) for folder in (self.train, self.validation))
        return Problem(backbone, train.labels, _all_of(train), _all_of(validation), seed=0)


@dataclass(frozen=True)
class Source:
    """An ImageFolder that pictures are taken from."""

    files: dict[str, tuple[Path, ...]]

    @classmethod
    def of(cls, folder: Path) -> Source:
        """Of a person's folder. Raises InvalidInputError for one that is no ImageFolder of two classes or more."""
        listing = list_folder(folder)
        random = np.random.default_rng(0)
        files: dict[str, list[Path]] = {label: [] for label in listing.labels}
        for entry in listing.entries:
            files[entry.labels[0]].append(folder / entry.file)
        if len(files) < 2 or not all(files.values()):
            fix = "give a folder with a sub-folder of pictures for each of two classes or more"
            raise InvalidInputError("too few classes with pictures", field="data", value=folder, fix=fix)
        return cls({label: tuple(own[place] for place in random.permutation(len(own))) for label, own in files.items()})

    @classmethod
    def photographs(cls, folder: Path) -> Source:
        """Of scikit-image's photographs of surfaces, written to `folder`."""
        from skimage import data  # noqa: PLC0415 - only where nobody gave pictures

        for label in PHOTOGRAPHS:
            (folder / label).mkdir(parents=True)
            Image.fromarray(getattr(data, label)()).save(folder / label / "0.png")
        return cls.of(folder)

    def write(self, folder: Path, pictures: int) -> Material:
        """So many pictures, evenly of every label, below `folder`; a fifth of each to validate.

        Raises InvalidInputError when fewer than `MIN_PER_CLASS` of a label would be left to learn from.
        """
        each = pictures // len(self.files)
        kept = max(MIN_PER_CLASS, round(VALIDATION_SHARE * each))
        if each - kept < MIN_PER_CLASS:
            fix = f"give {2 * MIN_PER_CLASS * len(self.files)} or more"
            raise InvalidInputError(f"too few for {len(self.files)} labels", field="pictures", value=pictures, fix=fix)
        material = Material(folder / "train", folder / "validation")
        for label in self.files:
            for number, (name, content) in enumerate(self._drawn(label, each)):
                _keep((material.validation if number < kept else material.train) / label / name, content)
        return material

    def write_classes(self, folder: Path, labels: int, each: int) -> Path:
        """An ImageFolder of the first labels, `each` pictures of every one."""
        for label in list(self.files)[:labels]:
            for name, content in self._drawn(label, each):
                _keep(folder / label / name, content)
        return folder

    def _drawn(self, label: str, count: int) -> Iterator[tuple[str, bytes]]:
        """Names and contents, no content twice: files as they are, then crops."""
        seen: set[str] = set()
        for number, (suffix, content) in enumerate(self._endless(label)):
            digest = hashlib.sha256(content).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield f"{number:05}{suffix}", content
            if len(seen) == count:
                return

    def _endless(self, label: str) -> Iterator[tuple[str, bytes]]:
        files = self.files[label]
        yield from ((file.suffix, file.read_bytes()) for file in files)
        random = np.random.default_rng(1)
        while True:
            for file in files:
                yield ".jpg", _crop(file, random)


def dataset_of(folder: Path, backbone: Backbone, cache: Path) -> Dataset:
    """An ImageFolder as training reads it."""
    return read(list_folder(folder), backbone.preprocessing, cache, NoProgress())


def _all_of(dataset: Dataset) -> Pictures:
    return dataset.take([picture.file for picture in dataset.pictures])


def _crop(file: Path, random: np.random.Generator) -> bytes:
    with Image.open(file) as picture:
        whole = picture.convert("RGB")
    width, height = (max(1, round(side * random.uniform(*KEPT))) for side in whole.size)
    left, top = (int(random.integers(0, room + 1)) for room in (whole.width - width, whole.height - height))
    content = io.BytesIO()
    whole.crop((left, top, left + width, top + height)).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
