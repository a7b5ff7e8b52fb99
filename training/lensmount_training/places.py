"""Where a run writes, found out before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lensmount.errors import InvalidInputError
from lensmount_adapters.manifest import TaskName
from lensmount_training.progress import Progress

RUNS = Path("runs")
GoesOn = Callable[[Path], bool]


def choose_out(task: str, out: Path | None, progress: Progress, goes_on: GoesOn) -> Path:
    """The folder of the package: `out`, else runs/TASK, else the next free of runs/TASK-2, runs/TASK-3.

    A folder that exists is free where `goes_on` says that this run wrote it, and was ended before its report.
    Its parent exists afterwards. Raises InvalidInputError for a task that is no name, an `out`
    that exists, or a place that can not be written.
    """
    _check_task(task)
    target = out or _next_free(task, goes_on)
    if target.exists() and not goes_on(target):
        fix = "give another --out, or delete the folder"
        raise InvalidInputError("the folder exists", field="out", value=target, fix=fix)
    if not out and target.name != task:
        progress.say(f"{RUNS / task} exists; this run goes to {target}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"can not be written: {error.strerror}"
        raise InvalidInputError(message, field="out", value=target, fix="give another --out") from error
    return target


def _check_task(task: str) -> None:
    try:
        TypeAdapter(TaskName).validate_python(task)
    except ValidationError as error:
        fix = "use letters, digits, '.', '_' and '-', 64 at most, starting with a letter or digit"
        raise InvalidInputError("not a task name", field="task", value=task, fix=fix) from error


def _next_free(task: str, goes_on: GoesOn) -> Path:
    number, target = 1, RUNS / task
    while target.exists() and not goes_on(target):
        number += 1
        target = RUNS / f"{task}-{number}"
    return target
