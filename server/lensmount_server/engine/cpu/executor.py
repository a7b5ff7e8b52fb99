"""Runs a pass on a CPU: compiled trunk to the forks, then every group's tail side by side.

A group whose tail is merged runs that; the others share one eager pass from their fork, where
base weights run once and each adapter's edits are added to its own rows (LoRA form).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmount.errors import ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import run_head
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.eager import EagerCompiler
from lensmount_server.engine.cpu.lanes import Lanes
from lensmount_server.engine.cpu.lowered import twin
from lensmount_server.engine.cpu.probes import Probes, relative_error
from lensmount_server.engine.cpu.tails import Tails
from lensmount_server.engine.cpu.trunk import Trunk
from lensmount_server.engine.cpu.units import Compiler, Options, SegmentRange, Unit, Work
from lensmount_server.engine.mixed import Rows, Span, run_segment, select
from lensmount_server.engine.plan import Group, Pass

# Root mean square of the difference between the two forms of an adapter, relative to the features.
FORMS_AGREE = {"fp32": 1e-3, "bf16": 1e-1}


@dataclass(frozen=True, eq=False)
class _Pending:
    """A group's rows at its fork."""

    group: Group
    x: Tensor


class CpuExecutor:
    """The fast executor of a CPU; `run` is for one thread, everything else may come from any.

    `segment_rows` counts the rows that went through each segment since the start.
    """

    def __init__(self, backbone: Backbone, compiler: Compiler, options: Options, budget_bytes: int) -> None:
        self.backbone = backbone
        self.name = compiler.name
        self.precision = compiler.precision
        self.segment_rows = [0] * len(backbone.segments)
        self._options = options
        self._compiler = compiler
        eager = compiler if isinstance(compiler, EagerCompiler) else EagerCompiler(backbone, compiler.precision)
        self._lowered = eager.backbone
        # Deltas are added by hooks on modules: whoever is not the engine's thread needs modules of its own.
        self._twin = twin(eager.backbone)
        self._trying = threading.Lock()
        self._probes = Probes(backbone)
        self._lanes = Lanes(compiler.lanes)
        self._trunk = Trunk(compiler, len(backbone.segments), options)
        self._tails = Tails(self._merge, budget_bytes)

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Compile the trunk with a border at `fork`. Blocks."""
        self._trunk.cut(fork, preprocessing)

    def mount(self, adapter: Adapter) -> None:
        """Make ready what the adapter needs, and try it. Blocks; its merged tail follows later.

        Raises ServerError when its logits are not finite.
        """
        features = self._in_lora_form(adapter)
        head = adapter.head
        logits = run_head(head, self.backbone, features, self.backbone.pool(features))
        if not bool(torch.isfinite(logits).all()):
            fix = "train it again with a lower learning rate"
            raise ServerError("its logits are not finite", field="adapter", value=adapter.manifest.task, fix=fix)
        self._trunk.cut(adapter.fork, adapter.manifest.preprocessing)
        if adapter.fork < len(self.backbone.segments):
            self._tails.want(adapter)

    def unmount(self, content_hash: str) -> None:
        """Forget what was kept for an adapter."""
        self._tails.drop(content_hash)

    def settle(self) -> None:
        """Wait until no tail is being merged."""
        self._tails.settle()

    def close(self) -> None:
        """End the threads."""
        self._tails.close()
        self._lanes.close()

    @torch.inference_mode()
    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass.
        """
        features: dict[Group, Tensor] = {}
        pending: list[_Pending] = []
        frames, x, position = tuple(range(len(work.frames))), pictures, 0
        for fork in work.forks:
            still = work.shared_after(fork - 1)
            x = self._run_trunk(position, fork, x[select(frames, still)], work)
            frames, position = still, fork
            forking = [group for group in work.groups if group.adapter.fork == fork]
            pending += [_Pending(group, x[select(frames, group.frames)].contiguous()) for group in forking]
        features.update(self._run_tails(pending))
        return [self._head(group, features[group]) for group in work.groups]

    def _run_trunk(self, start: int, stop: int, x: Tensor, work: Pass) -> Tensor:
        for range_, unit in self._trunk.units(start, stop, work.preprocessing) if stop > start else ():
            self._count(range_.start, range_.stop, len(x))
            (x,) = self._lanes.run([Work(unit, x.contiguous())])
        return x

    def _run_tails(self, pending: Sequence[_Pending]) -> dict[Group, Tensor]:
        last = len(self.backbone.segments)
        features = {one.group: one.x for one in pending if one.group.adapter.fork == last}
        merged: list[tuple[_Pending, Unit]] = []
        plain: dict[int, list[_Pending]] = {}
        for one in (one for one in pending if one.group not in features):
            self._count(one.group.adapter.fork, last, len(one.x))
            unit = self._tails.get(one.group.adapter)
            if unit is None:
                plain.setdefault(one.group.adapter.fork, []).append(one)
            else:
                merged.append((one, unit))
        if merged:
            works = [Work(unit, one.x, weight=last - one.group.adapter.fork) for one, unit in merged]
            features.update(zip((one.group for one, _ in merged), self._lanes.run(works), strict=True))
        for fork, ones in plain.items():
            features.update(_run_mixed(self._lowered, fork, ones))
            for one in ones:
                self._tails.want(one.group.adapter)
        return features

    def _head(self, group: Group, features: Tensor) -> Tensor:
        return run_head(group.adapter.head, self.backbone, features, self.backbone.pool(features))

    def _count(self, start: int, stop: int, rows: int) -> None:
        for index in range(start, stop):
            self.segment_rows[index] += rows

    def _merge(self, adapter: Adapter) -> Unit:
        """Compile the adapter's tail; raises ServerError when it does not answer as its LoRA form does."""
        range_ = SegmentRange(adapter.fork, len(self.backbone.segments), adapter.manifest.preprocessing)
        with torch.inference_mode(mode=False), torch.no_grad():
            tensors = adapter.merged(self.backbone.model)
        unit = self._compiler.compile(range_, Options(self._options.buckets), tensors)
        expected = self._in_lora_form(adapter)
        x = self._probes.at(range_)[:1].contiguous()
        got = torch.empty((1, *unit.row_shape))
        unit.run(x, got)
        error = relative_error(got, expected)
        if not error <= FORMS_AGREE[self.precision]:
            raise ServerError("its merged tail differs from its LoRA form", field="adapter", value=f"{error:.2g}")
        return unit

    @torch.inference_mode()
    def _in_lora_form(self, adapter: Adapter) -> Tensor:
        """Features of one random picture, as the adapter makes them without merging."""
        range_ = SegmentRange(adapter.fork, len(self.backbone.segments), adapter.manifest.preprocessing)
        x = self._probes.at(range_)[:1]
        if not len(range_):
            return x
        group = Group(adapter, (0,))
        with self._trying:
            return _run_mixed(self._twin, adapter.fork, [_Pending(group, x)])[group]


def _run_mixed(backbone: Backbone, fork: int, pending: Sequence[_Pending]) -> dict[Group, Tensor]:
    """All groups of one fork in LoRA form, in one eager pass on `backbone`'s modules."""
    dtype = next(backbone.model.parameters()).dtype
    rows: Rows = []
    for one in pending:
        x = one.group.adapter.manifest.preprocessing.normalize(one.x) if fork == 0 else one.x
        rows.append((Span(one.group, one.group.frames), x.to(dtype)))
    for index in range(fork, len(backbone.segments)):
        rows = run_segment(backbone.segments[index], index, rows)
    return {span.group: x.float() for span, x in rows if span.group}
