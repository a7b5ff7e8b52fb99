"""What is asked of an import, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lensmount_adapters.importing.ranking import Trial
from lensmount_adapters.manifest import Manifest

Form = Literal["replaced", "lora"]


@dataclass(frozen=True)
class Request:
    """What to import and how; empty and None leave the choice to the files of the source.

    `source` and `base` are addresses, `weights` the backbone's file, `save_weights` a new file for weights of a
    backbone made of a Hugging Face model; `form` is for whole checkpoints, `max_loss` a share of the pictures.
    """

    source: str
    out: Path
    task: str
    labels: tuple[str, ...] = ()
    backbone: str = ""
    weights: Path | None = None
    base: str = ""
    save_weights: Path | None = None
    pictures: Path | None = None
    form: Form = "replaced"
    max_loss: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What came of an import.

    `difference` is the largest of a golden logit between package and original (for a truncation: the truncated
    model), relative to the largest one; `trials` are the ranks that were tried; `notes` are sentences for people.
    """

    out: Path
    content_hash: str
    size_bytes: int
    manifest: Manifest
    difference: float
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]


class Progress(Protocol):
    """Where an import says how far it is."""

    def stage(self, label: str, total: int) -> Callable[[], object]:
        """Start a stage of `total` steps; call what comes back for each."""


class Silent:
    """Says nothing."""

    def stage(self, label: str, total: int) -> Callable[[], object]:  # noqa: ARG002 - the protocol has them
        """A stage that nobody sees."""
        return lambda: None
