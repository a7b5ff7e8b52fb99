"""Train in processes that are killed, again and again until one gets through: `python resuming.py FOLDER`.

Every attempt is a process of its own, which SIGKILL ends at a step, while a checkpoint is written, or right behind it.
For each of `STRATEGIES`, FOLDER/NAME gets the tensors of the run that nobody disturbed (whole.pt) and of the one that
got through (last.pt). Prints how each attempt ended and how many steps it made, by name, as JSON. "control" is a
strategy whose attempts share no checkpoints.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lensmount_training.context import Context
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora, Strategy
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.schedule import Schedule
from problems import hard_problem

SCHEDULE = Schedule(epochs=3, least_steps=1, batch=8, learning_rate=1e-2, ema=0.9)
SHORT = replace(SCHEDULE, epochs=2)
LORA = Lora(rank=2, last_segments=2, schedule=SCHEDULE)
STRATEGIES: dict[str, Strategy] = {
    "lora": LORA,
    "features": FeatureExtraction(head="dropout", schedule=SCHEDULE),
    "finetune": FineTune(
        last_segments=2,
        head_epochs=2,
        shallow_rate=1e-3,
        views=("identity",),
        augment=Augment(randaugment=3, mixup=0.2),
        schedule=SHORT,
    ),
    "batchnorm": FineTune(full=True, batch_norm=True, head_epochs=1, deep_rate=1e-3, schedule=SHORT),
    "control": LORA,
}
# Where attempts die: at which step of their own, or at which sync of a file or folder (a checkpoint has one of each).
DEATHS = (("step", 5), ("sync", 1), ("step", 2), ("sync", 2))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    print(json.dumps({name: attempts(name, folder / name) for name in STRATEGIES}))


def attempts(name: str, folder: Path) -> dict[str, list[int]]:
    """The ends (0, or the signal below it) and steps of a whole run, of those that die, and of the last."""
    folder.mkdir()
    kept = None if name == "control" else folder / "checkpoints"
    ends, steps = [], []
    for out, checkpoints, death in [("whole.pt", None, None), *(("last.pt", kept, own) for own in (*DEATHS, None))]:
        counted = folder / "steps"
        counted.write_bytes(b"")
        pid = os.fork()
        if pid == 0:
            train(name, folder, checkpoints, death)
            (folder / "tensors.pt").rename(folder / out)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        ends.append(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        steps.append(counted.stat().st_size)
    return {"ends": ends, "steps": steps}


def train(name: str, folder: Path, checkpoints: Path | None, death: tuple[str, int] | None) -> None:
    """One attempt, which dies at its place."""
    kind, last = death or ("", 0)

    def log(what: str, value: float, step: int) -> None:
        if what.rsplit("/", maxsplit=1)[-1] == "loss":
            with (folder / "steps").open("ab") as file:
                file.write(b".")
            if kind == "step" and (folder / "steps").stat().st_size == last:
                die()

    problem = hard_problem("test_efficientnet" if name == "batchnorm" else "test_vit", 20)
    context = Context(cache=folder / "cache", checkpoints=checkpoints, log=log)
    with mock.patch("os.fsync", deadly(os.fsync, last if kind == "sync" else 0)):
        torch.save(dict(STRATEGIES[name].train(problem, context).tensors), folder / "tensors.pt")


def deadly(sync: Callable[[Any], None], last: int) -> Callable[[Any], None]:
    """A sync whose `last` call is the end."""
    calls = 0

    def run(file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == last:
            die()
        sync(file)

    return run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
