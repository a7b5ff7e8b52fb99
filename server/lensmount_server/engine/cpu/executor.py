"""Runs a pass on a CPU: compiled trunk to the forks, then every group's tail side by side.

A group whose tail is merged runs that. One whose structure is compiled runs that with its own
low-rank tensors (LoRA form); the rest share one eager pass from their fork, where base weights
run once and each adapter's edits are added to its own rows.
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
from lensmount_server.engine.cpu.forms import LoraForms, Structure
from lensmount_server.engine.cpu.lanes import Lanes
from lensmount_server.engine.cpu.tails import Tails
from lensmount_server.engine.cpu.trunk import Trunk
from lensmount_server.engine.cpu.units import Compiler, LoraUnit, Options, Unit, Work
from lensmount_server.engine.lowered import DTYPES, lowered
from lensmount_server.engine.mixed import run_tail, taken
from lensmount_server.engine.plan import Group, Pass
from lensmount_server.engine.probes import relative_error
from lensmount_server.engine.ranges import SegmentRange
from lensmount_server.engine.trial import Trial
from lensmount_server.engine.turns import Turns

# Root mean square of the difference between the two forms of an adapter, relative to the features.
FORMS_AGREE = {"fp32": 1e-3, "bf16": 1e-1}
# What a row costs in compiled LoRA form, by what it costs in a merged tail (docs/performance.md).
LORA_COST = 1.3
NOT_MEASURED: Mapping[int, float] = MappingProxyType({})

Entering = tuple[Group, Tensor]


class CpuExecutor:
    """The fast executor of a CPU; `run` is for one thread, everything else may come from any.

    `segment_rows` counts the rows that went through each segment since the start.
    """

    answers = True

    def __init__(
        self,
        backbone: Backbone,
        compiler: Compiler,
        options: Options,
        budget_bytes: int,
        batch_ms: Mapping[int, float] = NOT_MEASURED,
        merge_after: int = 0,
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
        self._forms = LoraForms(self._compile_lora, len(backbone.segments))
        self._tails = Tails(self._merge, budget_bytes)
        self._merge_after = merge_after
        self._turns = Turns()

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Compile the trunk with a border at `fork`. Blocks."""
        self._trunk.cut(fork, preprocessing)

    def mount(self, adapter: Adapter) -> None:
        """Cut the trunk where the adapter forks, and try it. Blocks; its merged tail follows later.

        Raises IncompatibleError when it answers with NaN or infinity.
        """
        form = self._forms.mount(adapter)
        try:
            self._trial.check(adapter, self._alone(form, adapter) if form else None)
            self._trunk.cut(adapter.fork, adapter.manifest.preprocessing)
        except BaseException:
            self._forms.unmount(adapter.content_hash)
            raise
        if adapter.fork < len(self.backbone.segments):
            self._want_merged(adapter)

    def unmount(self, content_hash: str) -> None:
        """Forget what was kept for an adapter."""
        self._tails.drop(content_hash)
        self._forms.unmount(content_hash)

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until an adapter's tail is compiled, in LoRA form or merged; without a name until all is merged."""
        if not content_hash or self._forms.get(content_hash) is None:
            self._tails.settle(content_hash, timeout_s)

    def merge(self, content_hash: str) -> None:
        """Merge a mounted adapter's tail now and not after its rows. Blocks."""
        bound = self._forms.get(content_hash)
        if bound is not None:
            self._tails.want(bound.adapter)
        self._tails.settle(content_hash)

    def close(self) -> None:
        """End the threads."""
        self._tails.close()
        self._forms.close()
        self._trunk.close()
        self._lanes.close()

    @torch.inference_mode()
    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass.
        """
        with self._turns.a_pass():
            return self._run(work, pictures)

    def _run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        logits: dict[Group, Tensor] = {}
        entering: list[Entering] = []
        frames, x, position = tuple(range(len(work.frames))), pictures, 0
        for fork in work.forks:
            still = work.shared_after(fork - 1)
            x = self._run_trunk(position, fork, taken(x, frames, still), work)
            frames, position = still, fork
            own = {group: taken(x, frames, group.frames) for group in work.groups if group.adapter.fork == fork}
            if fork == len(self.backbone.segments):
                pooled = self.backbone.pool(x)
                for group, features in own.items():
                    logits[group] = self._head(group, features, taken(pooled, frames, group.frames))
            else:
                entering += [(group, features.contiguous()) for group, features in own.items()]
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
        compiled: dict[Group, Work] = {}
        mixed: dict[int, list[Entering]] = {}
        for group, x in entering:
            fork = group.adapter.fork
            self._count(fork, last, len(x))
            work = self._compiled(group.adapter, x)
            if work is None:
                mixed.setdefault(fork, []).append((group, x))
            else:
                compiled[group] = work
        features = dict(zip(compiled, self._lanes.run(list(compiled.values())), strict=True))
        for rows in mixed.values():
            features.update(run_tail(self._lowered, rows))
        return features

    def _compiled(self, adapter: Adapter, x: Tensor) -> Work | None:
        """The adapter's rows for its merged tail, else for its compiled LoRA form, where there is one."""
        segments = len(self.backbone.segments) - adapter.fork
        merged = self._tails.get(adapter)
        if merged is not None:
            return Work(merged, x, weight=segments)
        form = self._forms.get(adapter.content_hash)
        if form is not None:
            form.rows += len(x)
        self._want_merged(adapter)
        return Work(form.unit, x, weight=segments * LORA_COST) if form else None

    def _want_merged(self, adapter: Adapter) -> None:
        """Merge its tail, unless it has a form that is nearly as fast and has not been asked often."""
        form = self._forms.get(adapter.content_hash)
        if form is None or form.rows >= self._merge_after:
            self._tails.want(adapter)

    def _head(self, group: Group, features: Tensor, pooled: Tensor) -> Tensor:
        return run_head(group.adapter.head, self.backbone, features, pooled)

    def _count(self, start: int, stop: int, rows: int) -> None:
        for index in range(start, stop):
            self.segment_rows[index] += rows

    def _compile_lora(self, structure: Structure, adapter: Adapter) -> LoraUnit | None:
        """Compile a structure's LoRA form; raises ServerError when an adapter does not answer as it does by torch."""
        form = self.compiler.compile_lora(structure.range_, self.options, dict(structure.ranks))
        if form is not None:
            unit = form.bind(adapter.deltas)
            self._compare(self._alone(unit, adapter), adapter, "its compiled LoRA form differs from torch's")
        return form

    def _merge(self, adapter: Adapter) -> Unit:
        """Compile the adapter's tail; raises ServerError when it does not answer as its LoRA form does."""
        with torch.inference_mode(mode=False), torch.no_grad():
            tensors = adapter.merged(self.backbone.model)
        unit = self.compiler.compile(self._range(adapter), Options(self.options.buckets), tensors)
        self._compare(self._alone(unit, adapter), adapter, "its merged tail differs from its LoRA form")
        return unit

    def _alone(self, unit: Unit, adapter: Adapter) -> Tensor:
        """Features of the adapter's probe picture by a unit of its own, between two batches: both want all cores."""
        x = self.compiler.probes.at(self._range(adapter))[:1].contiguous()
        features = torch.empty((1, *unit.row_shape))
        with self._turns.in_between():
            if not unit.run_wide(x, features):
                unit.run(x, features)
        return features

    def _compare(self, got: Tensor, adapter: Adapter, message: str) -> None:
        error = relative_error(got, self._trial.features(adapter))
        if not error <= FORMS_AGREE[self.precision]:
            raise ServerError(message, field="adapter", value=f"{error:.2g}")

    def _range(self, adapter: Adapter) -> SegmentRange:
        return SegmentRange(adapter.fork, len(self.backbone.segments), adapter.manifest.preprocessing)
