"""What the demo trains: tasks, each with one or two adapter versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lensmount_adapters.backbones import Backbone
from lensmount_training.progress import Progress
from lensmount_training.recipe import Recipe, StrategyName
from lensmount_training.workflow import Run, train

# One is enough to see a better version: a demo does not look for the best.
RANK = 8


@dataclass(frozen=True)
class Lesson:
    """A folder of pictures for a task; with `twice`, a LoRA version follows the head-only one."""

    folder: Path
    task: str
    twice: bool = False


@dataclass(frozen=True)
class Learned:
    """A task and its versions in order: the first goes live at the start, the second mid-stream."""

    task: str
    versions: tuple[Run, ...]


def learn(
    lessons: Sequence[Lesson], backbone: Backbone, out: Path, seed: int, progress: Progress
) -> tuple[Learned, ...]:
    """Train every version of every lesson; packages go to `out`/TASK-1 and `out`/TASK-2."""
    return tuple(Learned(lesson.task, tuple(_versions(lesson, backbone, out, seed, progress))) for lesson in lessons)


def _versions(lesson: Lesson, backbone: Backbone, out: Path, seed: int, progress: Progress) -> list[Run]:
    strategies: tuple[StrategyName, ...] = ("features", "lora") if lesson.twice else ("features",)
    runs = []
    for number, strategy in enumerate(strategies, start=1):
        progress.say(f"{lesson.task}, version {number}: {strategy}")
        rank = RANK if strategy == "lora" else None
        recipe = Recipe(data=lesson.folder, task=lesson.task, strategy=strategy, rank=rank, seed=seed, audit=False)
        place = out / f"{lesson.task}-{number}"
        runs.append(train(recipe, place, progress, backbone=backbone, openings=out / "openings"))
    return runs
