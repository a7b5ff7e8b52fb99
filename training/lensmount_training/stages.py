"""What a stage of a run learned, kept so that a run that was killed does not learn it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lensmount_adapters.manifest import Edit
from lensmount_training.processes import current
from lensmount_training.saving import save
from lensmount_training.strategies.strategy import Settings, Trained

FILE = "learned.pt"


@dataclass(frozen=True, eq=False)
class Kept:
    """What a package holds of what a strategy trained; see `Trained`."""

    tensors: Mapping[str, Tensor]
    settings: Settings
    edits: tuple[Edit, ...]
    lora: Mapping[str, object] | None
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, trained: Trained) -> Kept:
        """Without the model that was trained."""
        return cls(trained.tensors, trained.settings, trained.edits, trained.lora, trained.metrics)

    @property
    def parameters(self) -> int:
        """How many numbers a package of it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True, eq=False)
class Learned:
    """What a strategy made, its logits float32 (n, labels) on the validation pictures, and the seconds it took."""

    name: str
    trained: Kept
    validation: Tensor
    seconds: float


def once(folder: Path | None, make: Callable[[], Learned]) -> Learned:
    """What lies in the folder of a stage, else what `make` gives, which is kept there; without a folder nothing is.

    Of several processes the first has the folder, and all go by what it finds. Raises InvalidInputError.
    """
    path = folder / FILE if folder else None
    known = current().same(_load(path) if path and path.is_file() else None)
    if known:
        return known
    learned = make()
    if folder:
        save(_plain(learned), folder / FILE, f"the stage {learned.name}")
    return learned


def forget(folder: Path) -> None:
    """Delete what stages kept: the run has ended."""
    shutil.rmtree(folder, ignore_errors=True)


def _plain(learned: Learned) -> dict[str, object]:
    own = learned.trained
    return {
        "name": learned.name,
        "validation": learned.validation,
        "seconds": learned.seconds,
        "tensors": dict(own.tensors),
        "settings": dict(own.settings),
        "edits": [edit.model_dump() for edit in own.edits],
        "lora": own.lora,
        "metrics": dict(own.metrics),
    }


def _load(path: Path) -> Learned:
    known = torch.load(path, map_location="cpu", weights_only=True)
    trained = Kept(
        tensors=known["tensors"],
        settings=known["settings"],
        edits=tuple(Edit(**edit) for edit in known["edits"]),
        lora=known["lora"],
        metrics=known["metrics"],
    )
    return Learned(known["name"], trained, known["validation"], known["seconds"])
