"""Runs a pass on a GPU: the trunk as a graph, edits by slot in the kernel that computes the base weights.

Same contract and same answers as the plain executor, which stays the oracle. All rows of a pass
are one tensor; what differs between adapters is which slot a run of rows reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import AttentionPool, run_head
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cuda.convolution import edited_conv
from lensmount_server.engine.cuda.forwards import Forward, standing_in
from lensmount_server.engine.cuda.graphs import BUCKETS, USUAL, Capture, CudaCapture, TrunkGraphs
from lensmount_server.engine.cuda.kernel import INTERPRETED, edited_linear
from lensmount_server.engine.cuda.layout import Layout, Layouts, gathered, layouts, shape_of
from lensmount_server.engine.cuda.precision import Precision, forbid_tf32, in_precision
from lensmount_server.engine.cuda.slots import Slots
from lensmount_server.engine.cuda.tiles import NO_SLOT, Run, Runs, runs_of
from lensmount_server.engine.cuda.transfer import Fetch, PinnedDownload, Transfer
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.plan import Pass
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.trial import Trial
from lensmount_server.engine.turns import Turns


@dataclass(frozen=True, eq=False)
class Member:
    """Neighbouring rows of one segment: an adapter's in its slot, or the shared ones (`adapter` None, slot -1)."""

    adapter: Adapter | None
    slot: int
    rows: int

    def slot_for(self, segment: int, module: str) -> int:
        """The slot to read for a module; -1 when the adapter leaves it alone."""
        edited = self.adapter is not None and module in self.adapter.lora.get(segment, {})
        return self.slot if edited else NO_SLOT


class CudaExecutor:
    """The engine's arithmetic on a backbone that lies on a CUDA device.

    `run` and `fetch` are for one thread, everything else may come from any. `slots` adapters with edits are on the
    device at a time; a pass that wants more runs in parts. `capture` makes graphs of the trunk: CUDA's on a GPU,
    none on the CPU, unless it is told.
    `segment_rows` counts the rows that went through each segment since the start.
    On the CPU it runs with TRITON_INTERPRET=1 only, to be tested; raises IncompatibleError otherwise.
    """

    name = "cuda"
    answers = True
    batch_ms: Mapping[int, float] = MappingProxyType({})

    def __init__(
        self, backbone: Backbone, precision: Precision = "fp32", slots: int = 32, capture: Capture | None = None
    ) -> None:
        device = backbone.device
        if device.type != "cuda" and not INTERPRETED:
            fix = "use the plain executor; or set TRITON_INTERPRET=1, to test the kernel slowly"
            raise IncompatibleError("the backbone must be on a CUDA device", field="device", value=device, fix=fix)
        self.backbone = backbone
        self.precision = precision
        self._on_gpu = device.type == "cuda"
        if self._on_gpu and precision == "fp32":
            forbid_tf32()
        self.segment_rows = [0] * len(backbone.segments)
        self._own = in_precision(backbone, precision)
        self._trial = Trial(backbone, self._own, Probes(backbone))
        self.slots = Slots(self._own.model, slots, DTYPES[precision])
        if capture is None and self._on_gpu:
            capture = CudaCapture()
        self.batch_sizes = BUCKETS if capture else ()
        self._trunk = TrunkGraphs(self._eager_trunk, capture)
        self._send = Transfer(device).send if self._on_gpu else torch.Tensor.cpu
        self._fetch = Fetch(PinnedDownload(device)) if self._on_gpu else list[Tensor]
        self._turns = Turns()

    def cut(self, fork: int, preprocessing: Preprocessing) -> None:
        """Capture the trunk up to `fork` for batches of usual sizes, where that was not done. Blocks.

        A batch that comes meanwhile waits for one capture at most.
        """
        size = (3, preprocessing.height, preprocessing.width)
        for frames in USUAL if fork else ():
            with self._turns.in_between(), self._computing():
                blank = torch.zeros(frames, *size, dtype=torch.uint8, device=self.backbone.device)
                self._trunk.prepare(fork, self._entering(blank, preprocessing))

    def mount(self, adapter: Adapter) -> None:
        """Try the adapter, and cut the trunk where it forks; it takes a slot with its first row. Blocks.

        Raises IncompatibleError when it answers with NaN or infinity.
        """
        self._trial.check(adapter)
        self.cut(adapter.fork, adapter.manifest.preprocessing)

    def unmount(self, content_hash: str) -> None:
        """Nothing: its slot is found by content, so it can not go stale, and is reused when it is the oldest."""

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Nothing happens in the background."""

    def close(self) -> None:
        """There are no threads."""

    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass. The
        logits are float32 on the device and may still be being computed; `fetch` waits for them.
        """
        with self._turns.a_pass(), self._computing():
            x = self._entering(self._send(pictures), work.preprocessing)
            return [logits for part in self._parts(work) for logits in self._run(part, x)]

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Logits of any number of passes on the CPU; waits once for all of them."""
        return self._fetch(logits)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """In a turn: a pass replaces forwards of modules, and a capture would take them for the trunk's own."""
        device = torch.cuda.device(self.backbone.device) if self._on_gpu else nullcontext()
        with torch.inference_mode(), device:
            yield

    def _entering(self, pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
        x = preprocessing.normalize(pictures)
        return x.to(DTYPES[self.precision], memory_format=torch.channels_last)

    def _parts(self, work: Pass) -> list[Pass]:
        """The pass, or, when more adapters than slots have edits in it, passes that fit."""
        table = self.slots.table
        room = max(table.count - len(table.pinned), 1)
        if sum(self._edits(group.adapter) for group in work.groups) <= room:
            return [work]
        starts = range(0, len(work.groups), room)
        return [replace(work, groups=work.groups[start : start + room]) for start in starts]

    def _edits(self, adapter: Adapter) -> bool:
        return adapter.fork < len(self._own.segments)

    def _run(self, work: Pass, x: Tensor) -> list[Tensor]:
        plan = layouts(shape_of(work, len(self._own.segments)))
        self._count(plan)
        first = min(group.adapter.fork for group in work.groups)
        with self.slots.leased(group.adapter for group in work.groups if self._edits(group.adapter)) as slots:
            if first:
                x = self._trunk.run(first, gathered(x, plan.segments[0].gather))
            for index in range(first, len(plan.segments)):
                layout = plan.segments[index]
                x = self._step(index, _members(work, layout, slots), gathered(x, layout.gather))
        return self._heads(work, plan, x)

    def _eager_trunk(self, stop: int, x: Tensor) -> Tensor:
        for segment in self._own.segments[:stop]:
            x = segment(x)
        return x

    def _step(self, index: int, members: Sequence[Member], x: Tensor) -> Tensor:
        """Run one segment: one pass of base weights for all rows that can share it."""
        apart = [member for member in members if self._apart(index, member)]
        if not apart:
            return self._together(index, members, x)
        together = [member for member in members if member not in apart]
        rows = dict(zip(members, torch.split(x, [member.rows for member in members]), strict=True))
        done = {member: self._alone(index, member, rows[member]) for member in apart}
        if together:
            y = self._together(index, together, torch.cat([rows[member] for member in together]))
            done.update(zip(together, torch.split(y, [member.rows for member in together]), strict=True))
        return torch.cat([done[member] for member in members])

    def _apart(self, index: int, member: Member) -> bool:
        """Whether these rows must run through the segment by themselves."""
        adapter = member.adapter
        if adapter is None:
            return False
        return index in adapter.replaced or (index in adapter.lora and not self._own.segments[index].mixable)

    def _alone(self, index: int, member: Member, x: Tensor) -> Tensor:
        tensors = self.slots.replaced(member.slot, index)
        if tensors is None:
            return self._together(index, [member], x)
        return self._own.segments[index].run_replaced(dict(tensors), x)

    def _together(self, index: int, members: Sequence[Member], x: Tensor) -> Tensor:
        edited = dict.fromkeys(
            name for member in members if member.adapter for name in member.adapter.lora.get(index, ())
        )
        forwards = {
            name: self._forward(name, runs_of(Run(member.slot_for(index, name), member.rows) for member in members))
            for name in edited
        }
        with standing_in(self._own.model, forwards):
            return self._own.segments[index](x)

    def _forward(self, name: str, runs: Runs) -> Forward:
        module, stack = self.slots.module(name), self.slots.stack(name)
        if isinstance(module, nn.Conv2d):
            return partial(edited_conv, module, module.forward, stack=stack, runs=runs)
        return partial(edited_linear, weight=module.weight, bias=module.bias, stack=stack, runs=runs)

    def _heads(self, work: Pass, plan: Layouts, x: Tensor) -> list[Tensor]:
        """Heads run in float32, whatever the backbone runs in: they are small, and thresholds were set there."""
        pooled = self._own.pool(x).float()
        logits = []
        for group, rows in zip(work.groups, plan.heads, strict=True):
            head = group.adapter.head
            features = gathered(x, rows).float() if isinstance(head, AttentionPool) else x
            logits.append(run_head(head, self._own, features, gathered(pooled, rows)))
        return logits

    def _count(self, plan: Layouts) -> None:
        for index, layout in enumerate(plan.segments):
            self.segment_rows[index] += sum(len(span.frames) for span in layout.spans)


def _members(work: Pass, layout: Layout, slots: Mapping[str, int]) -> list[Member]:
    adapters = [None if span.group is None else work.groups[span.group].adapter for span in layout.spans]
    return [
        Member(adapter, NO_SLOT if adapter is None else slots[adapter.content_hash], len(span.frames))
        for adapter, span in zip(adapters, layout.spans, strict=True)
    ]
