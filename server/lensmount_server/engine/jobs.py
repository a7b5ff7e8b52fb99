"""What the engine is asked for, and the pictures of a pass put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.plan import Pass
from lensmount_server.frames import Picture, Still
from lensmount_server.unscaled import cut_out, needs_scaling


@dataclass(frozen=True, eq=False)
class Job:
    """One frame and the adapters that shall look at it.

    `prepared` holds what decoding threads already scaled; what is missing is made here. `until_s` (perf_counter) is
    when nobody waits for it any more.
    """

    picture: Picture
    adapters: tuple[Adapter, ...]
    prepared: Mapping[Preprocessing, Tensor] = field(default_factory=dict)
    until_s: float = inf


def pictures_of(work: Pass, jobs: Sequence[Job]) -> Tensor:
    """uint8 (frames, 3, height, width): one row for each frame of a pass, in their order."""
    seen, own = work.preprocessing, [jobs[place] for place in work.frames]
    unscaled = [pixels for job in own if (pixels := _unscaled(job, seen)) is not None]
    if len(unscaled) == len(own):
        return cut_out(unscaled, seen)
    return torch.stack([_prepared(job, seen) for job in own])


def _unscaled(job: Job, preprocessing: Preprocessing) -> Pixels | None:
    """The pixels of a picture that is only to be cut."""
    picture = job.picture
    if preprocessing in job.prepared or not isinstance(picture, Still):
        return None
    return None if needs_scaling(picture.height, picture.width, preprocessing) else picture.pixels


def _prepared(job: Job, preprocessing: Preprocessing) -> Tensor:
    ready = job.prepared.get(preprocessing)
    return job.picture.prepare(preprocessing) if ready is None else ready
