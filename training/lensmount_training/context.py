"""Where a run reports to and keeps things: what every part of training needs beside its problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from lensmount_training.progress import NoProgress, Progress

Log = Callable[[str, float, int], None]


def default_cache() -> Path:
    """The folder of decoded pictures and activations, shared by all runs of this user."""
    return platformdirs.user_cache_path("lensmount") / "training"


def default_openings() -> Path:
    """The folder where all runs of this user find who opened a test set before."""
    return platformdirs.user_data_path("lensmount") / "openings"


def _nowhere(name: str, value: float, step: int) -> None:
    """No log."""


@dataclass(frozen=True)
class Context:
    """Progress, places and a log.

    `cache` holds decoded pictures and activations by content; `checkpoints`, where there is one, is the folder
    of what this run alone can take up again after it was killed; `log` takes a scalar's name, value and step;
    `openings` says who opened a test set before.
    """

    progress: Progress = field(default_factory=NoProgress)
    cache: Path = field(default_factory=default_cache)
    checkpoints: Path | None = None
    log: Log = _nowhere
    openings: Path = field(default_factory=default_openings)

    def below(self, name: str) -> Context:
        """The context of one stage: a folder of its own for checkpoints, its name before every scalar's."""
        folder = self.checkpoints / name if self.checkpoints else None
        return replace(self, checkpoints=folder, log=lambda what, value, step: self.log(f"{name}/{what}", value, step))
