"""Train as one of several processes: `torchrun --nproc-per-node 2 together.py FOLDER`.

Every process writes what it said, logged and got to FOLDER/rank-N.pt.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from lensmount.errors import InvalidInputError
from lensmount_training.context import Context
from lensmount_training.processes import current
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import FineTune, Lora, Problem, Strategy
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.feature_extraction import FeatureExtraction
from lensmount_training.strategies.schedule import Schedule
from problems import hard_problem

SCHEDULE = Schedule(epochs=2, least_steps=1, batch=8, learning_rate=1e-2, micro_batch=3)
STRATEGIES: dict[str, Strategy] = {
    "lora": Lora(rank=2, last_segments=2, schedule=replace(SCHEDULE, ema=0.5)),
    "dropout": FeatureExtraction(head="dropout", schedule=SCHEDULE),
    "finetune": FineTune(last_segments=2, head_epochs=1, shallow_rate=1e-3, schedule=SCHEDULE),
    "mixed": Lora(rank=2, last_segments=2, schedule=SCHEDULE, augment=Augment(randaugment=3, mixup=0.3, cutmix=0.3)),
}


def together() -> Problem:
    """19 pictures: no share is as large as another."""
    return hard_problem(count=19)


class Told(NoProgress):
    def __init__(self) -> None:
        self.bars: list[str] = []

    def bar(self, label: str, total: int) -> Told:
        self.bars.append(f"{label} {total}")
        return self


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    told, logged = Told(), []
    context = Context(
        progress=told,
        cache=folder / "cache",
        checkpoints=folder / "checkpoints",
        log=lambda name, value, step: logged.append(name),  # noqa: ARG005
    )
    results: dict[str, Any] = {}
    for name, strategy in STRATEGIES.items():
        results[name] = dict(strategy.train(together(), context.below(name)).tensors)
    refused = ""
    try:
        FineTune(batch_norm=True).train(together(), context)
    except InvalidInputError as error:
        refused = error.field or ""
    processes = current()
    state = {"tensors": results, "bars": told.bars, "logged": logged, "refused": refused, "count": processes.count}
    torch.save(state, folder / f"rank-{processes.rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
