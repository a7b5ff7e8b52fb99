"""Where a training stands, on disk: whole or not at all, and never taken up by another training.

A file is written beside its place, synced, and renamed; after a crash, or a power failure, there is the old one or the
new one. It is read without unpickling code (`weights_only`). It names the settings and the data that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from lensmount.errors import InvalidInputError
from lensmount_training.data.dataset import Pictures
from lensmount_training.saving import save
from lensmount_training.strategies.strategy import Problem, Settings

FILE = "training.pt"


class Checkpoint:
    """The one checkpoint of a stage in `folder`; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, problem: Problem, settings: Settings) -> None:
        self._path = folder / FILE if folder else None
        self._identity = {**settings, **_identity(problem)}

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU; None where nothing was.

        Raises InvalidInputError (field "resume") for a file of other settings or data, or one that can not be read.
        """
        if self._path is None or not self._path.is_file():
            return None
        try:
            saved: dict[str, Any] = torch.load(self._path, map_location="cpu", weights_only=True)
            identity = json.loads(saved["identity"])
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
            message, fix = "the checkpoint can not be read", "delete it and train from the start"
            raise InvalidInputError(message, field="resume", value=self._path, fix=fix) from error
        if identity != self._identity:
            name = min(key for key in {*identity, *self._identity} if identity.get(key) != self._identity.get(key))
            message = f"the checkpoint is of another training: {name} was {identity.get(name)}"
            fix = "give the same settings and data again, or delete the checkpoint"
            raise InvalidInputError(message, field="resume", value=self._identity.get(name), fix=fix)
        return saved

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved; raises InvalidInputError when the disk can not hold it."""
        if self._path is None:
            return
        save({**state, "identity": json.dumps(self._identity)}, self._path, "the checkpoint")


def _identity(problem: Problem) -> dict[str, Any]:
    """What beside settings decides a training."""
    return {
        "backbone": problem.backbone.fingerprint,
        "labels": list(problem.labels),
        "kind": problem.kind,
        "seed": problem.seed,
        "train": _digest(problem.train),
        "validation": _digest(problem.validation),
    }


def _digest(pictures: Pictures) -> str:
    digest = hashlib.sha256("\n".join(pictures.digests).encode())
    digest.update(pictures.targets.contiguous().numpy().data)
    return digest.hexdigest()
