"""The folder beside a package that holds its run: the recipe, stages that were finished, logs and reports.

A process that is killed leaves it as it is, and the same command goes on from there. `state.json` says whether a run
ended; a lock that the system lets go with the process says whether one is still at work.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_adapters.scratch import sweep
from lensmount_training.progress import Progress
from lensmount_training.recipe import Recipe, read_recipe
from lensmount_training.saving import put

State = Literal["running", "failed", "done"]
RECIPE, STATE, LOCK = "recipe.yaml", "state.json", ".lock"
FRESH = "give --fresh to start anew, or another --out"


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps things, beside its package at `out`."""

    out: Path

    @property
    def path(self) -> Path:
        """The folder."""
        return self.out.with_name(f"{self.out.name}.run")

    @property
    def stages(self) -> Path:
        """What was finished, and what is under way."""
        return self.path / "stages"

    def mark(self, state: State, **found: str) -> None:
        """Set the state, durably enough for a process that dies; `found` is what the run found its data to be."""
        self.put(STATE, json.dumps({**self._state(), **found, "state": state}, indent=1) + "\n")

    def put(self, name: str, content: str | bytes) -> None:
        """Write a file, whole or not at all; raises InvalidInputError when the disk can not hold it."""
        put(self.path / name, content)

    def check_found(self, **found: str) -> None:
        """Remember what data and backbone were found to be; raises InvalidInputError when they changed since."""
        known = self._state()
        for name, value in found.items():
            if known.get(name, value) != value:
                message = f"the {name} changed since this run was begun"
                raise InvalidInputError(message, field="resume", value=self.path, fix=FRESH)
        self.mark("running", **found)

    @property
    def left(self) -> Recipe | None:
        """The recipe of a run that was begun here and did not end well: it can go on."""
        if self._state().get("state", "done") == "done":
            return None
        with suppress(InvalidInputError):  # of a release with other choices
            return read_recipe(self.path / RECIPE)
        return None

    def _state(self) -> dict[str, str]:
        path = self.path / STATE
        state: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
        return state


def check_unfinished(folder: RunFolder, recipe: Recipe) -> None:
    """Raise InvalidInputError when a run of another recipe was left unfinished there."""
    path = folder.path / RECIPE
    if not path.is_file() or folder._state().get("state") != "running":  # noqa: SLF001 - its own module
        return
    known = read_recipe(path)
    changed = [name for name in Recipe.model_fields if getattr(known, name) != getattr(recipe, name)]
    if changed:
        message = f"an unfinished run has other settings: {', '.join(changed)}"
        raise InvalidInputError(message, field="resume", value=folder.path, fix=FRESH)


@contextmanager
def opened(out: Path, recipe: Recipe, progress: Progress, *, fresh: bool) -> Iterator[RunFolder]:
    """The run folder of a package: a new one, or that of the same recipe where a process was killed.

    Raises InvalidInputError when another process is at work there, when an unfinished run has other settings, or when
    the folder can not be written.
    """
    folder = RunFolder(out)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = (folder.path / LOCK).open("w")
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=out, fix="give another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message, fix = "another process is training this", "wait for it, or give another --out"
            raise InvalidInputError(message, field="out", value=out, fix=fix) from error
        sweep(out)
        _take_up(folder, recipe, progress, fresh=fresh)
        try:
            yield folder
        except LensmountError:
            with suppress(InvalidInputError):  # a full disk; what was full first is told
                folder.mark("failed")
            raise
        folder.mark("done")


def _take_up(folder: RunFolder, recipe: Recipe, progress: Progress, *, fresh: bool) -> None:
    """Go on with what is there, or clear it."""
    state = folder._state()  # noqa: SLF001 - its own module
    known = read_recipe(folder.path / RECIPE) if (folder.path / RECIPE).is_file() and not fresh else None
    if known == recipe and state.get("state") != "done":
        if folder.stages.is_dir():
            progress.say(f"going on with the run in {folder.path}")
    else:
        if not fresh:
            check_unfinished(folder, recipe)
        _clear(folder)
    folder.put(RECIPE, recipe.as_yaml())
    folder.mark("running")


def _clear(folder: RunFolder) -> None:
    for path in folder.path.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
