"""Runs a pass: shared rows once, forks, LoRA and replaced segments by group, a head per task.

The rows of an adapter always lie side by side, so its edits apply to a slice and no row
needs an index. This is the plain form of the idea; every faster one is measured against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.heads import run_head
from lensmount_server.engine.deltas import RowDelta, added
from lensmount_server.engine.plan import Group, Pass


@dataclass(frozen=True)
class Span:
    """Neighbouring rows: of one group, or the shared ones (`group` None); `frames` by place in the pass."""

    group: Group | None
    frames: tuple[int, ...]


Rows = list[tuple[Span, Tensor]]


class Executor:
    """The engine's arithmetic on one backbone; not for use by two threads at once.

    `segment_rows` counts the rows that went through each segment since the start.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.segment_rows = [0] * len(backbone.segments)

    @torch.inference_mode()
    def run(self, work: Pass, pictures: Tensor) -> list[Tensor]:
        """Logits (frames, labels) of each group of `work`, in the order of its groups and their frames.

        `pictures` is uint8 (frames, 3, height, width), one row for each frame of the pass.
        """
        x = work.preprocessing.normalize(pictures.to(self.backbone.device))
        rows: Rows = [(Span(None, tuple(range(len(work.frames)))), x)]
        for index, segment in enumerate(self.backbone.segments):
            rows = self._step(segment, index, _fork(work, index, rows))
        return self._heads(work, rows)

    def _step(self, segment: Segment, index: int, rows: Rows) -> Rows:
        """Run one segment: one pass of base weights for all rows that can share it."""
        together = [row for row in rows if not _apart(segment, index, row[0])]
        apart = [row for row in rows if _apart(segment, index, row[0])]
        self.segment_rows[index] += sum(len(span.frames) for span, _ in rows)
        return [*_run_together(segment, index, together), *(_run_apart(segment, index, *row) for row in apart)]

    def _heads(self, work: Pass, rows: Rows) -> list[Tensor]:
        pooled = {span.group: self.backbone.pool(x) for span, x in rows}
        own = {span.group: (span.frames, x) for span, x in rows}
        logits = []
        for group in work.groups:
            source = group if group in own else None
            frames, features = own[source]
            chosen = _select(frames, group.frames)
            head = group.adapter.head
            logits.append(run_head(head, self.backbone, features[chosen], pooled[source][chosen]))
        return logits


def _fork(work: Pass, index: int, rows: Rows) -> Rows:
    """Give the groups that fork here rows of their own; drop shared rows that nobody needs any more."""
    (span, shared), *own = rows if rows[0][0].group is None else [(Span(None, ()), rows[0][1][:0]), *rows]
    still = work.shared_after(index)
    for group in work.groups:
        if group.adapter.fork == index:
            own.append((Span(group, group.frames), shared[_select(span.frames, group.frames)]))
    if not still:
        return own
    return [(Span(None, still), shared[_select(span.frames, still)]), *own]


def _select(have: tuple[int, ...], want: tuple[int, ...]) -> slice | list[int]:
    """How to index rows `have` to get rows `want`; a slice (no copy) when they are the same."""
    return slice(None) if have == want else [have.index(frame) for frame in want]


def _apart(segment: Segment, index: int, span: Span) -> bool:
    """Whether these rows must run through the segment by themselves."""
    if span.group is None:
        return False
    adapter = span.group.adapter
    return index in adapter.replaced or (index in adapter.lora and not segment.mixable)


def _run_apart(segment: Segment, index: int, span: Span, x: Tensor) -> tuple[Span, Tensor]:
    adapter = span.group.adapter if span.group else None
    if adapter and index in adapter.replaced:
        return span, segment.run_replaced(dict(adapter.replaced[index]), x)
    return _run_together(segment, index, [(span, x)])[0]


def _run_together(segment: Segment, index: int, rows: Sequence[tuple[Span, Tensor]]) -> Rows:
    if not rows:
        return []
    spans, parts = zip(*rows, strict=True)
    x = parts[0] if len(parts) == 1 else torch.cat(parts)
    deltas: dict[str, list[RowDelta]] = {}
    sizes = [len(span.frames) for span in spans]
    for span, start in zip(spans, _starts(sizes), strict=True):
        edits = span.group.adapter.lora.get(index, {}) if span.group else {}
        for name, delta in edits.items():
            deltas.setdefault(name, []).append(RowDelta(start, start + len(span.frames), delta))
    with added(segment.model, deltas, x.shape[0]):
        y = segment(x)
    return list(zip(spans, torch.split(y, sizes), strict=True))


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes))]
