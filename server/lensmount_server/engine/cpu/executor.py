"""Runs a pass on a CPU: compiled trunk to the forks, then every group's tail side by side.

A group whose tail is merged runs that; the others share one eager pass from their fork, where
base weights run once and each adapter's edits are added to its own rows (LoRA form).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from lensmount.errors import ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import run_head
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.lanes import Lanes
from lensmount_server.engine.cpu.tails import Tails
from lensmount_server.engine.cpu.trunk import Trunk
from lensmount_server.engine.cpu.units import Compiler, Options, Unit, Work
from lensmount_server.engine.lowered import DTYPES, lowered
from lensmount_server.engine.mixed import run_tail, select
from lensmount_server.engine.plan import Group, Pass
from lensmount_server.engine.probes import relative_error
from lensmount_server.engine.ranges import SegmentRange
from lensmount_server.engine.trial import Trial

# Root mean square of the difference between the two forms of an adapter, relative to the features.
FORMS_AGREE = {"fp32": 1e-3, "bf16": 1e-1}
NOT_MEASURED: Mapping[int, float] = MappingProxyType({})

Entering = tuple[Group, Tensor]


class CpuExecutor:
    """The fast executor of a CPU; `run` is for one thread, everything else may come from any.

    `segment_rows` counts the rows that went through each segment since the start.
    """

    def __init__(
        self,
        backbone: Backbone,
        compiler: Compiler,
        options: Options,
        budget_bytes: int,
        batch_ms: Mapping[int, float] = NOT_MEASURED,
    ) -> None:
        self.backbone = backbone
        self.name = compiler.name
        self.precision = compiler.precision
        self.batch_ms = batch_ms
        self.batch_sizes = options.buckets
        self.segment_rows = [0] * len(backbone.segments)
        self.options = options
        self.compiler = compiler
        known = compiler.backbone if isinstance(compiler, EagerCompiler) else None
        self._lowered = known or lowered(backbone, DTYPES[compiler.precision])
        self._trial = Trial(backbone, self._lowered, compiler.probes)
        self._lanes = Lanes(compiler.lanes)
        self._trunk = Trunk(compiler, len(backbone.segments), options)
        self._tails = Tails(self._merge, budget_bytes)

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Compile the trunk with a border at `fork`. Blocks."""
        self._trunk.cut(fork, preprocessing)

    def mount(self, adapter: Adapter) -> None:
        """Cut the trunk where the adapter forks, and try it. Blocks; its merged tail follows later.

        Raises IncompatibleError when it answers with NaN or infinity.
        """
        self._trial.check(adapter)
        self._trunk.cut(adapter.fork, adapter.manifest.preprocessing)
        if adapter.fork < len(self.backbone.segments):
            self._tails.want(adapter)

    def unmount(self, content_hash: str) -> None:
        """Forget what was kept for an adapter."""
        self._tails.drop(content_hash)

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until this adapter's tail is merged, at most so long; without a name until all are."""
        self._tails.settle(content_hash, timeout_s)

    def close(self) -> None:
        """End the threads."""
        self._tails.close()
        self._trunk.close()
        self._lanes.close()

    @torch.inference_mode()
    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass.
        """
        logits: dict[Group, Tensor] = {}
        entering: list[Entering] = []
        frames, x, position = tuple(range(len(work.frames))), pictures, 0
        for fork in work.forks:
            still = work.shared_after(fork - 1)
            x = self._run_trunk(position, fork, x[select(frames, still)], work)
            frames, position = still, fork
            rows = {group: select(frames, group.frames) for group in work.groups if group.adapter.fork == fork}
            if fork == len(self.backbone.segments):
                pooled = self.backbone.pool(x)
                logits.update({group: self._head(group, x[own], pooled[own]) for group, own in rows.items()})
            else:
                entering += [(group, x[own].contiguous()) for group, own in rows.items()]
        for group, features in self._run_tails(entering).items():
            logits[group] = self._head(group, features, self.backbone.pool(features))
        return [logits[group] for group in work.groups]

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """They are on the CPU, and computed."""
        return list(logits)

    def _run_trunk(self, start: int, stop: int, x: Tensor, work: Pass) -> Tensor:
        for range_, unit in self._trunk.units(start, stop, work.preprocessing) if stop > start else ():
            self._count(range_.start, range_.stop, len(x))
            (x,) = self._lanes.run([Work(unit, x.contiguous())])
        return x

    def _run_tails(self, entering: Sequence[Entering]) -> dict[Group, Tensor]:
        last = len(self.backbone.segments)
        merged: list[tuple[Group, Work]] = []
        mixed: dict[int, list[Entering]] = {}
        for group, x in entering:
            fork = group.adapter.fork
            self._count(fork, last, len(x))
            unit = self._tails.get(group.adapter)
            if unit is None:
                mixed.setdefault(fork, []).append((group, x))
            else:
                merged.append((group, Work(unit, x, weight=last - fork)))
        outs = self._lanes.run([work for _, work in merged])
        features = dict(zip((group for group, _ in merged), outs, strict=True))
        for rows in mixed.values():
            features.update(self._run_mixed(rows))
        return features

    def _run_mixed(self, rows: Sequence[Entering]) -> dict[Group, Tensor]:
        for group, _ in rows:
            self._tails.want(group.adapter)
        return run_tail(self._lowered, rows)

    def _head(self, group: Group, features: Tensor, pooled: Tensor) -> Tensor:
        return run_head(group.adapter.head, self.backbone, features, pooled)

    def _count(self, start: int, stop: int, rows: int) -> None:
        for index in range(start, stop):
            self.segment_rows[index] += rows

    def _merge(self, adapter: Adapter) -> Unit:
        """Compile the adapter's tail; raises ServerError when it does not answer as its LoRA form does."""
        range_ = SegmentRange(adapter.fork, len(self.backbone.segments), adapter.manifest.preprocessing)
        with torch.inference_mode(mode=False), torch.no_grad():
            tensors = adapter.merged(self.backbone.model)
        unit = self.compiler.compile(range_, Options(self.options.buckets), tensors)
        expected = self._trial.features(adapter)
        x = self.compiler.probes.at(range_)[:1].contiguous()
        got = torch.empty((1, *unit.row_shape))
        unit.run(x, got)
        error = relative_error(got, expected)
        if not error <= FORMS_AGREE[self.precision]:
            raise ServerError("its merged tail differs from its LoRA form", field="adapter", value=f"{error:.2g}")
        return unit
