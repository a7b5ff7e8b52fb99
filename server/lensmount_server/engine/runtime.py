"""One batch from pictures to logits: preprocessing, plan, passes, counters."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.executor import Executor
from lensmount_server.engine.plan import Pass, plan


@dataclass(frozen=True, eq=False)
class Job:
    """One frame and the adapters that shall look at it.

    `prepared` holds what decoding threads already scaled; what is missing is made here.
    """

    pixels: Pixels
    adapters: tuple[Adapter, ...]
    prepared: Mapping[Preprocessing, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Counters:
    """What the engine has run since it started; see EngineCounters in inference.proto."""

    batches: int
    frames: int
    rows: int
    segment_rows: tuple[int, ...]


class Engine:
    """The one executor of a device; `run` is called from one thread, `mount` and `unmount` from any."""

    precision = "fp32"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._executor = Executor(backbone)
        self._running = threading.Lock()
        self._batches = self._frames = self._rows = 0

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        """Logits (labels,) on the CPU for each adapter of each job, in their order."""
        rows: dict[tuple[int, str], Tensor] = {}
        with self._running:
            for work in plan((place, adapter) for place, job in enumerate(jobs) for adapter in job.adapters):
                rows.update(self._run_pass(work, jobs))
        self._batches += 1
        self._frames += len(jobs)
        self._rows += len(rows)
        return [[rows[place, adapter.content_hash] for adapter in job.adapters] for place, job in enumerate(jobs)]

    def mount(self, adapter: Adapter) -> None:
        """Warm an adapter up: a black picture must be answered with numbers, or IncompatibleError is raised. Blocks."""
        wanted = adapter.manifest.preprocessing
        black = np.zeros((wanted.height, wanted.width, 3), np.uint8)
        (work,) = plan([(0, adapter)])
        with self._running:
            rows = self._run_pass(work, [Job(black, (adapter,))])
        if not bool(torch.isfinite(rows[0, adapter.content_hash]).all()):
            message, fix = (
                "it answers a black picture with NaN or infinity",
                "train it again with a lower learning rate",
            )
            raise IncompatibleError(message, field="warm-up", value=adapter.content_hash[:12], fix=fix)

    def unmount(self, content_hash: str) -> None:
        """Forget an adapter that was mounted; this engine keeps nothing of it."""

    def counters(self) -> Counters:
        """A snapshot of the counters."""
        return Counters(self._batches, self._frames, self._rows, tuple(self._executor.segment_rows))

    def _run_pass(self, work: Pass, jobs: Sequence[Job]) -> dict[tuple[int, str], Tensor]:
        pictures = torch.stack([_prepared(jobs[place], work.preprocessing) for place in work.frames])
        rows = {}
        for group, logits in zip(work.groups, self._executor.run(work, pictures), strict=True):
            for position, row in zip(group.frames, logits.float().cpu(), strict=True):
                rows[work.frames[position], group.adapter.content_hash] = row
        return rows


def _prepared(job: Job, preprocessing: Preprocessing) -> Tensor:
    ready = job.prepared.get(preprocessing)
    return preprocessing.prepare(job.pixels) if ready is None else ready
