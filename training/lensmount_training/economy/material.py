"""The pictures of one measurement: so many of each class to learn from, the same test pictures for all."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import wrap
from lensmount_training.data.dataset import Dataset, Picture
from lensmount_training.economy.cells import ALL
from lensmount_training.split import draw_split
from lensmount_training.strategies import Problem

VALIDATION_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Material:
    """A data set with the names of its test pictures and of those that may be learned from."""

    name: str
    dataset: Dataset
    pool: tuple[str, ...]
    test: tuple[str, ...]


def material_of(dataset: Dataset) -> Material:
    """Divide as the data set's own `split.csv` (columns file, split) says, else by our split with seed 0."""
    official = _official(dataset.folder / "split.csv")
    test = tuple(own.file for own in dataset.pictures if official.get(own.file) == "test")
    if not test:
        test = draw_split(dataset, 0).test
    sealed = set(test)
    pool = tuple(own.file for own in dataset.pictures if own.file not in sealed)
    return Material(dataset.folder.name, dataset, pool, test)


def problem_of(material: Material, backbone: Backbone, labels: int, seed: int) -> tuple[Problem, int]:
    """What is learned from `labels` pictures a class, a fifth of them to choose by; and how many there were at least.

    Pictures are drawn by seed, and those of fewer labels are among those of more.
    """
    train: list[str] = []
    validation: list[str] = []
    least = len(material.pool)
    for label in range(len(material.dataset.labels)):
        own = _drawn(material, label, seed)[: labels if labels != ALL else None]
        kept = max(1, round(VALIDATION_SHARE * len(own)))
        validation += own[:kept]
        train += own[kept:]
        least = min(least, len(own))
    dataset = material.dataset
    problem = Problem(backbone, dataset.labels, dataset.take(train), dataset.take(validation), seed, dataset.kind)
    return problem, least


def at_size(backbone: Backbone, size: int) -> Backbone:
    """The same weights for square pictures of another size; position embeddings are resampled, as timm does it."""
    model: Any = backbone.model
    if backbone.fixed_size:
        model.set_input_size(img_size=size)
    preprocessing = backbone.preprocessing.model_copy(update={"height": size, "width": size})
    return replace(wrap(model, backbone.name), preprocessing=preprocessing)


def _drawn(material: Material, label: int, seed: int) -> list[str]:
    allowed = set(material.pool)
    own = [picture for picture in material.dataset.pictures if picture.file in allowed and label in picture.labels]
    return [picture.file for picture in sorted(own, key=lambda picture: _place(picture, seed))]


def _place(picture: Picture, seed: int) -> str:
    return hashlib.sha256(f"{seed} {picture.digest}".encode()).hexdigest()


def _official(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(file))
    return {row["file"]: row["split"] for row in rows if "file" in row and "split" in row}
