"""All cases of a run, one after the other, in one process with all cores."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lensmount_training.bench import lora_step, probe, tail
from lensmount_training.bench.case import Case
from lensmount_training.bench.setting import Setting
from lensmount_training.progress import Progress


@dataclass(frozen=True)
class Report:
    """What was measured, with what: timm's name of the backbone, torch's threads, pictures in both parts together."""

    backbone: str
    threads: int
    rounds: int
    pictures: int
    cases: tuple[Case, ...]

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "cases": [case.as_object() for case in self.cases]}


def measure(setting: Setting, names: Collection[str], threads: int, progress: Progress) -> Report:
    """Run the cases that are in `names`, those of `case.CASES` in their order."""
    with _threads(threads):
        cases = tuple(_cases(setting, names, progress))
    return Report(setting.backbone.name, threads, setting.rounds, setting.pictures, cases)


def _cases(setting: Setting, names: Collection[str], progress: Progress) -> Iterator[Case]:
    if {probe.PROBE.name, probe.AGAIN.name} & {*names}:
        yield from probe.measure(setting, names, progress)
    if tail.TAIL.name in names:
        yield tail.measure(setting, progress)
    if lora_step.STEP.name in names:
        yield lora_step.measure(setting, progress)
    # Imported only where they are wanted: they bring the rest of training, and gRPC, into the process that is timed.
    if "new_task" in names:
        from lensmount_training.bench import new_task  # noqa: PLC0415

        yield new_task.measure(setting, progress)
    if "audit" in names:
        from lensmount_training.bench import auditing  # noqa: PLC0415

        yield auditing.measure(setting, progress)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
