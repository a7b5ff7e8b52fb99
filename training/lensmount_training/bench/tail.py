"""The last two blocks and a head: epochs from what enters them, beside epochs from pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lensmount_training.bench.case import OURS, RIVAL, Case, Judged, Known, run_in_turns
from lensmount_training.bench.naive import BATCH, train_last_blocks
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.features import PLAIN
from lensmount_training.progress import Progress
from lensmount_training.strategies import Problem
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.descent import Fit, descend
from lensmount_training.strategies.learner import Group, Learner
from lensmount_training.strategies.pixel_feed import feeds
from lensmount_training.strategies.schedule import Schedule
from lensmount_training.strategies.whole import blocks, whole

EPOCHS, BLOCKS = 3, 2
# Of the blocks, and of the head: what fine-tuning takes.
RATES = (1e-4, 1e-3)
TAIL = Known(
    "tail",
    f"{EPOCHS} epochs of the last two blocks and a head, what enters them cached, "
    "beside a DataLoader and the whole timm model with gradients in these blocks only",
    3,
)
SCHEDULE = Schedule(
    epochs=EPOCHS, least_steps=1, batch=BATCH, weight_decay=0.0, label_smoothing=0.0, class_weights=False
)


def measure(setting: Setting, progress: Progress) -> Case:
    """Epochs of both sides; what enters the blocks is in the cache before the first round."""
    judged = Judged()
    rival = partial(train_last_blocks, setting.backbone, setting.material, EPOCHS, BLOCKS, RATES)
    ours(setting, setting.cache)
    sides = {
        OURS: judged.by(OURS, lambda: ours(setting, setting.cache)),
        RIVAL: judged.by(RIVAL, rival),
    }
    done = run_in_turns(TAIL.name, sides, setting.rounds, progress)
    return TAIL.beside(done, accuracy=judged[OURS], rival_accuracy=judged[RIVAL])


def ours(setting: Setting, cache: Path) -> float:
    """From the folder to trained blocks; the best validation accuracy of the epochs."""
    problem = setting.material.problem(setting.backbone, cache)
    return train(learner_of(problem), problem, Context(cache=cache)).judgement.accuracy


def learner_of(problem: Problem) -> Learner:
    """The blocks and a head, as fine-tuning unfreezes them."""
    copied = whole(problem.backbone, len(problem.labels))
    fork = fork_of(problem)
    deep = tuple(own for index in range(fork, len(copied.segments)) for own in copied.learnable(index))
    copied.head.requires_grad_()
    groups = (Group("blocks", RATES[0], deep), Group("head", RATES[1], tuple(copied.head.parameters())))
    return Learner(copied.tail(fork), groups)


def fork_of(problem: Problem) -> int:
    """The first segment of the blocks."""
    return blocks(problem.backbone)[BLOCKS - 1]


def train(learner: Learner, problem: Problem, context: Context) -> Fit:
    """The strategy's own descent."""
    eaten = feeds(problem, fork_of(problem), PLAIN, Augment(), context)
    return descend(learner, eaten, SCHEDULE, problem, context, {})
