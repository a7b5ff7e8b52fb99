"""The reference executor: a pass in fp32, segment by segment, as plainly as it can be written.

Slow and obviously right. Every faster form is held against it, and it against PEFT's own models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import run_head
from lensmount_server.engine.mixed import Rows, Span, run_segment, taken
from lensmount_server.engine.plan import Pass
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.trial import Trial


class ReferenceExecutor:
    """The engine's arithmetic on one backbone; not for use by two threads at once.

    `segment_rows` counts the rows that went through each segment since the start.
    """

    name = "reference"
    precision = "fp32"
    answers = True
    batch_ms: Mapping[int, float] = MappingProxyType({})
    batch_sizes = ()

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._trial = Trial(backbone, backbone, Probes(backbone))
        self.segment_rows = [0] * len(backbone.segments)

    def mount(self, adapter: Adapter) -> None:
        """Try the adapter; nothing else is prepared here. Raises IncompatibleError."""
        self._trial.check(adapter)

    def unmount(self, content_hash: str) -> None:
        """Nothing is kept here."""

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Nothing happens in the background."""

    def close(self) -> None:
        """There are no threads."""

    @torch.inference_mode()
    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass.
        """
        x = work.preprocessing.normalize(pictures.to(self.backbone.device))
        rows: Rows = [(Span(None, tuple(range(len(work.frames)))), x)]
        for index, segment in enumerate(self.backbone.segments):
            rows = _fork(work, index, rows)
            self.segment_rows[index] += sum(len(span.frames) for span, _ in rows)
            rows = run_segment(segment, index, rows)
        return self._heads(work, rows)

    def fetch(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Each on the CPU, one after the other."""
        return [each.cpu() for each in logits]

    def _heads(self, work: Pass, rows: Rows) -> list[Tensor]:
        pooled = {span.group: self.backbone.pool(x) for span, x in rows}
        own = {span.group: (span.frames, x) for span, x in rows}
        logits = []
        for group in work.groups:
            source = group if group in own else None
            frames, features = own[source]
            own_features, own_pooled = (taken(x, frames, group.frames) for x in (features, pooled[source]))
            logits.append(run_head(group.adapter.head, self.backbone, own_features, own_pooled))
        return logits


def _fork(work: Pass, index: int, rows: Rows) -> Rows:
    """Give the groups that fork here rows of their own; drop shared rows that nobody needs any more."""
    (span, shared), *own = rows if rows[0][0].group is None else [(Span(None, ()), rows[0][1][:0]), *rows]
    still = work.shared_after(index)
    for group in work.groups:
        if group.adapter.fork == index:
            own.append((Span(group, group.frames), taken(shared, span.frames, group.frames)))
    if not still:
        return own
    return [(Span(None, still), taken(shared, span.frames, still)), *own]
