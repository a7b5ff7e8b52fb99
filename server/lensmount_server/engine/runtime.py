"""One batch from pictures to logits: preprocessing, plan, passes, counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol

from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_server.engine.choice import PLAIN, Reasons
from lensmount_server.engine.jobs import Job, pictures_of
from lensmount_server.engine.plan import Pass, plan
from lensmount_server.engine.reference import ReferenceExecutor


@dataclass(frozen=True)
class Counters:
    """What the engine has run since it started; see EngineCounters in inference.proto."""

    batches: int
    frames: int
    rows: int
    segment_rows: tuple[int, ...]


class Executor(Protocol):
    """Runs passes. `run` and `fetch` are called by one thread, the rest by any."""

    @property
    def name(self) -> str:
        """What computes."""
        ...

    @property
    def precision(self) -> str:
        """What it computes in: "fp32" or "bf16"."""
        ...

    @property
    def answers(self) -> bool:
        """Whether it can answer now: what computes in this process always can."""
        ...

    @property
    def segment_rows(self) -> Sequence[int]:
        """Rows that went through each segment since the start."""
        ...

    @property
    def batch_ms(self) -> Mapping[int, float]:
        """Milliseconds of batches of so many frames, one row each, where they were measured; else empty."""
        ...

    @property
    def batch_sizes(self) -> Sequence[int]:
        """The batch sizes that it is compiled for; empty where it takes every size alike."""
        ...

    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in their order; `pictures` is uint8, one row a frame.

        They may lie on a device and still be being computed: `fetch` brings them.
        """
        ...

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """What `run` gave, of any number of passes, on the CPU in float32. Waits until it is computed."""
        ...

    def mount(self, adapter: Adapter) -> None:
        """Make ready what the adapter needs, and try it. Blocks; raises LensmountError when it can not answer."""
        ...

    def unmount(self, content_hash: str) -> None:
        """Forget what was kept for an adapter."""
        ...

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until an adapter is as fast as it gets, at most so long; without a name until all are."""
        ...

    def close(self) -> None:
        """End the threads."""
        ...


class Engine:
    """The one executor of a device, and why it was chosen.

    `run` is called from one thread, `mount` and `unmount` from any.
    """

    def __init__(self, backbone: Backbone, executor: Executor | None = None, choice: Reasons = PLAIN) -> None:
        self.backbone = backbone
        self.choice = choice
        self.executor: Executor = ReferenceExecutor(backbone) if executor is None else executor
        self._batches = self._frames = self._rows = 0

    @property
    def precision(self) -> str:
        """What it computes in: "fp32" or "bf16"."""
        return self.executor.precision

    @property
    def answers(self) -> bool:
        """Whether it can answer now; where not, frames fail, and it may be able to later."""
        return self.executor.answers

    @property
    def batch_ms(self) -> Mapping[int, float]:
        """Milliseconds of batches of so many frames, one row each, where they were measured; else empty."""
        return self.executor.batch_ms

    def mount(self, adapter: Adapter) -> None:
        """Make an adapter ready to answer; raises IncompatibleError when it answers with NaN or infinity. Blocks."""
        self.executor.mount(adapter)

    def unmount(self, content_hash: str) -> None:
        """Forget what was kept for an adapter; it may still be in a batch under way."""
        self.executor.unmount(content_hash)

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until a mounted adapter is as fast as it gets, at most so long; without a name until all are."""
        self.executor.settle(content_hash, timeout_s)

    def close(self) -> None:
        """End the executor's threads."""
        self.executor.close()

    def run(self, jobs: Sequence[Job]) -> list[list[Tensor]]:
        """Logits (labels,) on the CPU for each adapter of each job, in their order."""
        passes = plan((place, adapter) for place, job in enumerate(jobs) for adapter in job.adapters)
        until_s = max((job.until_s for job in jobs), default=inf)
        passes = tuple(replace(work, until_s=until_s) for work in passes)
        # Nothing is read back in between: a device computes one pass while the next one is made ready.
        logits = [each for work in passes for each in self.executor.run(work, pictures_of(work, jobs))]
        groups = [(work, group) for work in passes for group in work.groups]
        rows: dict[tuple[int, str], Tensor] = {}
        for (work, group), own in zip(groups, self.executor.fetch(logits), strict=True):
            for position, row in zip(group.frames, own, strict=True):
                rows[work.frames[position], group.adapter.content_hash] = row
        self._batches += 1
        self._frames += len(jobs)
        self._rows += len(rows)
        return [[rows[place, adapter.content_hash] for adapter in job.adapters] for place, job in enumerate(jobs)]

    def counters(self) -> Counters:
        """A snapshot of the counters."""
        return Counters(self._batches, self._frames, self._rows, tuple(self.executor.segment_rows))
