"""Where each row of a pass lies at each segment: pure, and the same for every pass of the same shape.

All rows of a pass are one tensor, sorted by adapter: shared rows first, then each group from its
fork on. From segment to segment rows are picked by a list of positions, which is kept on the
device once it is there; so a batch like the last one costs no Python work for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lensmount_server.engine.plan import Pass

KEPT = 256
SHARED = None


@dataclass(frozen=True)
class Shape:
    """What of a pass decides where rows lie: the frames, the segments, and (fork, frames) of each group."""

    frames: int
    segments: int
    groups: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Span:
    """Neighbouring rows: of one group, by its number in the pass, or the shared ones (`group` None)."""

    group: int | None
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The rows of one segment; `gather` are their positions among the rows before it, None when they stay."""

    spans: tuple[Span, ...]
    gather: tuple[int, ...] | None


@dataclass(frozen=True)
class Layouts:
    """One layout for each segment, and for each group the positions of its rows after the last one."""

    segments: tuple[Layout, ...]
    heads: tuple[tuple[int, ...], ...]


def shape_of(work: Pass, segments: int) -> Shape:
    """The shape of a pass over a backbone with that many segments."""
    return Shape(len(work.frames), segments, tuple((group.adapter.fork, group.frames) for group in work.groups))


@lru_cache(maxsize=KEPT)
def layouts(shape: Shape) -> Layouts:
    """Where every row lies, from the first segment to the heads."""
    spans: tuple[Span, ...] = (Span(SHARED, tuple(range(shape.frames))),)
    steps = []
    for index in range(shape.segments):
        step = _step(shape, index, spans)
        steps.append(step)
        spans = step.spans
    return Layouts(tuple(steps), tuple(_head(shape, number, spans) for number in range(len(shape.groups))))


@lru_cache(maxsize=KEPT)
def device_index(positions: tuple[int, ...], device: torch.device) -> Tensor:
    """Positions as an int64 vector on the device."""
    return torch.tensor(positions, device=device)


def gathered(x: Tensor, positions: tuple[int, ...] | None) -> Tensor:
    """The rows of x at these positions; x itself when they stay."""
    return x if positions is None else x.index_select(0, device_index(positions, x.device))


def _step(shape: Shape, index: int, before: Sequence[Span]) -> Layout:
    """Drop shared rows that nobody needs any more; give the groups that fork here rows of their own."""
    shared = {frame: place for place, frame in enumerate(before[0].frames)} if before[0].group is SHARED else {}
    still = tuple(sorted({frame for fork, frames in shape.groups if fork > index for frame in frames}))
    spans, positions = [Span(SHARED, still)], [shared[frame] for frame in still]
    for span, start in zip(before, _starts(before), strict=True):
        if span.group is not SHARED:
            spans.append(span)
            positions += range(start, start + len(span.frames))
    for number, (fork, frames) in enumerate(shape.groups):
        if fork == index:
            spans.append(Span(number, frames))
            positions += [shared[frame] for frame in frames]
    stay = positions == list(range(sum(len(span.frames) for span in before)))
    return Layout(tuple(span for span in spans if span.frames), None if stay else tuple(positions))


def _head(shape: Shape, number: int, spans: Sequence[Span]) -> tuple[int, ...]:
    """The positions of a group's rows: its own, or shared ones when its adapter only adds a head."""
    fork, wanted = shape.groups[number]
    owner = number if fork < shape.segments else SHARED
    span, start = next((span, start) for span, start in zip(spans, _starts(spans), strict=True) if span.group == owner)
    place = {frame: start + i for i, frame in enumerate(span.frames)}
    return tuple(place[frame] for frame in wanted)


def _starts(spans: Sequence[Span]) -> list[int]:
    ends = [0]
    for span in spans:
        ends.append(ends[-1] + len(span.frames))
    return ends[:-1]
