"""A head on the frozen backbone: epochs on features that were computed once, beside epochs on pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from lensmount_adapters.timing import Rounds
from lensmount_training.bench.case import OURS, RIVAL, Case, Judged, Known, run_in_turns
from lensmount_training.bench.naive import BATCH, train_head
from lensmount_training.bench.setting import Setting
from lensmount_training.context import Context
from lensmount_training.features import PLAIN
from lensmount_training.progress import Progress
from lensmount_training.strategies import FeatureExtraction
from lensmount_training.strategies.schedule import Schedule

# The rate is the one that serves the rival best on the pictures it was tried on.
EPOCHS, RATE = 10, 3e-3
RIVALS = f"{EPOCHS} epochs of a DataLoader and a frozen timm model"
PROBE = Known("probe", f"{EPOCHS} epochs of a head from a folder, features computed once, beside {RIVALS}", 8)
AGAIN = Known("probe_again", f"the same with the first run's cache there, beside {RIVALS}", 100)
# Plain cross-entropy and Adam, as the rival has them.
STRATEGY = FeatureExtraction(
    views=PLAIN,
    head="dropout",
    dropout=0.0,
    schedule=Schedule(
        epochs=EPOCHS,
        least_steps=1,
        learning_rate=RATE,
        batch=BATCH,
        micro_batch=BATCH,
        weight_decay=0.0,
        label_smoothing=0.0,
        class_weights=False,
    ),
)


def measure(setting: Setting, names: Collection[str], progress: Progress) -> Iterator[Case]:
    """Those of the two cases that are in `names`; the rival runs once a round for both."""
    judged = Judged()
    runs = {RIVAL: judged.by(RIVAL, partial(train_head, setting.backbone, setting.material, EPOCHS, RATE))}
    if PROBE.name in names:
        runs[PROBE.name] = judged.by(PROBE.name, lambda: ours(setting, setting.fresh("new-cache")))
    if AGAIN.name in names:
        ours(setting, setting.cache)
        runs[AGAIN.name] = judged.by(AGAIN.name, lambda: ours(setting, setting.cache))
    done = run_in_turns(" and ".join(name for name in runs if name != RIVAL), runs, setting.rounds, progress)
    for known in (PROBE, AGAIN):
        if known.name in runs:
            pair = Rounds({OURS: done.ms[known.name], RIVAL: done.ms[RIVAL]})
            yield known.beside(pair, accuracy=judged[known.name], rival_accuracy=judged[RIVAL])


def ours(setting: Setting, cache: Path) -> float:
    """From the folder to a head; the best validation accuracy of its epochs."""
    judged: list[float] = []

    def log(name: str, value: float, step: int) -> None:  # noqa: ARG001 - as every log
        if name == "validation_accuracy":
            judged.append(value)

    STRATEGY.train(setting.material.problem(setting.backbone, cache), Context(cache=cache, log=log))
    return max(judged)
