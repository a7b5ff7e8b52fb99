"""One segment for rows of many adapters: base weights run once, each adapter's edits on its own rows.

The rows of an adapter always lie side by side, so its edits apply to a slice and no row
needs an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.deltas import RowDelta, added
from lensmount_server.engine.plan import Group


@dataclass(frozen=True)
class Span:
    """Neighbouring rows: of one group, or the shared ones (`group` None); `frames` by place in the pass."""

    group: Group | None
    frames: tuple[int, ...]


Rows = list[tuple[Span, Tensor]]


def run_segment(segment: Segment, index: int, rows: Rows) -> Rows:
    """Run segment number `index`: one pass of base weights for all rows that can share it."""
    together = [row for row in rows if not _apart(segment, index, row[0])]
    apart = [row for row in rows if _apart(segment, index, row[0])]
    return [*_run_together(segment, index, together), *(_run_apart(segment, index, *row) for row in apart)]


def run_tail(backbone: Backbone, entering: Sequence[tuple[Group, Tensor]]) -> dict[Group, Tensor]:
    """Features (float32) of groups that fork at one segment, from their own rows there to the last segment.

    Rows are uint8 pictures at segment 0. `backbone` is in the precision to compute in.
    """
    fork = entering[0][0].adapter.fork
    dtype = next(backbone.model.parameters()).dtype
    rows: Rows = []
    for group, x in entering:
        start = group.adapter.manifest.preprocessing.normalize(x) if fork == 0 else x
        rows.append((Span(group, group.frames), start.to(dtype)))
    for index in range(fork, len(backbone.segments)):
        rows = run_segment(backbone.segments[index], index, rows)
    return {span.group: x.float() for span, x in rows if span.group}


def taken(x: Tensor, have: tuple[int, ...], want: tuple[int, ...]) -> Tensor:
    """The rows `want` of an `x` that has the rows `have`; `x` itself when they are the same."""
    return x if have == want else x[[have.index(frame) for frame in want]]


def _apart(segment: Segment, index: int, span: Span) -> bool:
    """Whether these rows must run through the segment by themselves."""
    if span.group is None:
        return False
    adapter = span.group.adapter
    return index in adapter.replaced or (index in adapter.lora and not segment.mixable)


def _run_apart(segment: Segment, index: int, span: Span, x: Tensor) -> tuple[Span, Tensor]:
    adapter = span.group.adapter if span.group else None
    if adapter and index in adapter.replaced:
        tensors = {name: _as(x, tensor) for name, tensor in adapter.replaced[index].items()}
        return span, segment.run_replaced(tensors, x)
    return _run_together(segment, index, [(span, x)])[0]


def _run_together(segment: Segment, index: int, rows: Sequence[tuple[Span, Tensor]]) -> Rows:
    if not rows:
        return []
    spans, parts = zip(*rows, strict=True)
    x = parts[0] if len(parts) == 1 else torch.cat(parts)
    sizes = [len(span.frames) for span in spans]
    deltas: dict[str, list[RowDelta]] = {}
    for span, stop in zip(spans, accumulate(sizes), strict=True):
        edits = span.group.adapter.lora.get(index, {}) if span.group else {}
        for name, delta in edits.items():
            deltas.setdefault(name, []).append(RowDelta(stop - len(span.frames), stop, delta.to(x.dtype)))
    with added(segment.model, deltas, x.shape[0]):
        y = segment(x)
    return list(zip(spans, torch.split(y, sizes), strict=True))


def _as(x: Tensor, tensor: Tensor) -> Tensor:
    """A tensor in the precision of `x`; counters stay what they are."""
    return tensor.to(x.dtype) if tensor.is_floating_point() else tensor
