"""What the demo trains: tasks, each with one or two adapter versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lensmount_adapters.backbones import Backbone
from lensmount_training.progress import Progress
from lensmount_training.strategies import FeatureExtraction, Lora, Strategy
from lensmount_training.workflow import Run, train


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
    strategies: tuple[Strategy, ...] = (FeatureExtraction(), Lora()) if lesson.twice else (FeatureExtraction(),)
    runs = []
    for number, strategy in enumerate(strategies, start=1):
        progress.say(f"{lesson.task}, version {number}: {strategy.name}")
        place = out / f"{lesson.task}-{number}"
        runs.append(train(lesson.folder, lesson.task, strategy, backbone, place, seed, progress))
    return runs
