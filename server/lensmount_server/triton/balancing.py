"""How the frames of a batch are dealt out to several engines, and put together again: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from lensmount_server.engine.plan import Group, Pass


def shares(frames: int, frame_s: Sequence[float]) -> list[int]:
    """How many of so many frames each engine takes, so that all are done together.

    `frame_s` is what a frame takes on each, in seconds; 0 where it is not known, which counts as the mean of the
    others. Where there are as many frames as engines each gets one: an engine without any is never measured again.
    """
    known = [each for each in frame_s if each > 0]
    usual = sum(known) / len(known) if known else 1.0
    speeds = [1 / (each if each > 0 else usual) for each in frame_s]
    least = 1 if frames >= len(speeds) else 0
    rest = frames - least * len(speeds)
    exact = [rest * speed / sum(speeds) for speed in speeds]
    taken = [int(each) for each in exact]
    order = sorted(range(len(speeds)), key=lambda place: (taken[place] - exact[place], -speeds[place]))
    for place in order[: rest - sum(taken)]:
        taken[place] += 1
    return [least + each for each in taken]


def split(work: Pass, sizes: Sequence[int]) -> list[tuple[slice, Pass]]:
    """The pass cut into neighbouring frames, so many in each part: where in the pass they are, and their own pass.

    A part without frames is left out.
    """
    borders = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    return [(slice(start, stop), _cut(work, start, stop)) for start, stop in pairwise(borders) if stop > start]


def joined(work: Pass, parts: Sequence[tuple[slice, Pass]], logits: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Logits (frames, labels) of each group of `work` from those of its parts."""
    if len(parts) == 1:
        return list(logits[0])
    rows: dict[tuple[str, int], Tensor] = {}
    for (place, part), own in zip(parts, logits, strict=True):
        for group, tensor in zip(part.groups, own, strict=True):
            for frame, row in zip(group.frames, tensor, strict=True):
                rows[group.adapter.content_hash, place.start + frame] = row
    return [torch.stack([rows[group.adapter.content_hash, frame] for frame in group.frames]) for group in work.groups]


def _cut(work: Pass, start: int, stop: int) -> Pass:
    own = [
        Group(group.adapter, tuple(frame - start for frame in group.frames if start <= frame < stop))
        for group in work.groups
    ]
    return replace(work, frames=work.frames[start:stop], groups=tuple(group for group in own if group.frames))
