"""The audit as a whole: every look at the data, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lensmount_adapters.backbones import Backbone
from lensmount_training.audit.advice import advice_of, first_looks
from lensmount_training.audit.balance import class_balance
from lensmount_training.audit.domain import domain_distance
from lensmount_training.audit.duplicates import Duplicates, find_duplicates
from lensmount_training.audit.findings import Finding, Parts, findings_of
from lensmount_training.audit.folds import out_of_sample
from lensmount_training.audit.labels import judge
from lensmount_training.audit.leakage import Split, find_leakage
from lensmount_training.audit.looks import look
from lensmount_training.audit.sheets import Sheet, draw_sheets
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from lensmount_training.data.listing import Kind, Skipped
from lensmount_training.features import PLAIN, pooled

Verdict = Literal["fine", "look", "stop"]


@dataclass(frozen=True)
class Audit:
    """All of it. `look_first` are the files to begin with, `sheets` what a person sees of every class."""

    folder: str
    data_hash: str
    kind: Kind
    labels: tuple[str, ...]
    pictures: int
    skipped: tuple[Skipped, ...]
    backbone: str
    seed: int
    parts: Parts
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    look_first: tuple[str, ...]
    sheets: tuple[Sheet, ...]

    @property
    def verdict(self) -> Verdict:
        """What comes of it: "stop" with an error among the findings, "look" with a warning."""
        levels = {finding.level for finding in self.findings}
        return "stop" if "error" in levels else "look" if "warning" in levels else "fine"

    def exit_code(self, *, strict: bool = False) -> int:
        """0, or 1 when something must be looked at before training; `strict` counts warnings too."""
        return int(self.verdict == "stop" or (strict and self.verdict == "look"))


def audit(
    dataset: Dataset, backbone: Backbone, context: Context, split: Split | None = None, *, seed: int = 0
) -> Audit:
    """Look at pictures and labels; `split` gives the file names of each part, to search it for leaks.

    The same data, backbone and seed give the same audit. Raises InvalidInputError for a split that does not fit
    the data, and when the cache can not be written.
    """
    duplicates = find_duplicates(dataset, context)
    leakage = find_leakage(dataset, duplicates, split)
    pictures = dataset.take([picture.file for picture in dataset.pictures])
    features = pooled(backbone, pictures, PLAIN, context)[:, 0].double().numpy()
    targets = pictures.targets.numpy().astype(np.int64)
    probabilities = out_of_sample(features, targets, _groups(dataset, duplicates), seed, context.progress)
    parts = Parts(
        balance=class_balance(dataset, backbone),
        looks=look(dataset, context),
        judgement=judge(dataset, features, targets, probabilities),
        duplicates=duplicates,
        leakage=leakage,
        distance=domain_distance(backbone, dataset, context),
    )
    return Audit(
        folder=str(dataset.folder),
        data_hash=dataset.hash,
        kind=dataset.kind,
        labels=dataset.labels,
        pictures=len(dataset.pictures),
        skipped=dataset.skipped,
        backbone=backbone.name,
        seed=seed,
        parts=parts,
        findings=findings_of(dataset, parts),
        advice=advice_of(dataset, backbone.name, parts),
        look_first=first_looks(parts),
        sheets=draw_sheets(dataset, parts, seed),
    )


def _groups(dataset: Dataset, duplicates: Duplicates) -> list[int]:
    """A number for every picture: the same for those of a group, and for near-duplicates."""
    names: Mapping[str, str] = {file: f"set {place}" for place, files in enumerate(duplicates.sets) for file in files}
    numbers: dict[str, int] = {}
    found: list[int] = []
    for picture in dataset.pictures:
        own = f"group {picture.group}" if picture.group else names.get(picture.file, f"file {picture.file}")
        found.append(numbers.setdefault(own, len(numbers)))
    return found
