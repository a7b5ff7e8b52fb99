"""From a batch's logits to scores, in the engine's thread: once for all rows of an adapter, not for each answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lensmount_adapters.outcome import probabilities
from lensmount_server.engine.jobs import Job


class Row(NamedTuple):
    """What one adapter gave for one frame: logits (labels,), and the calibrated probabilities that they mean."""

    logits: Tensor
    scores: tuple[float, ...]


def scored(jobs: Sequence[Job], logits: Sequence[Sequence[Tensor]]) -> list[list[Row]]:
    """The rows of each job's adapters, in their order, as `Engine.run` gives their logits."""
    together: dict[str, list[Tensor]] = {}
    adapters = {adapter.content_hash: adapter for job in jobs for adapter in job.adapters}
    for job, rows in zip(jobs, logits, strict=True):
        for adapter, row in zip(job.adapters, rows, strict=True):
            together.setdefault(adapter.content_hash, []).append(row)
    scores: dict[str, Iterator[list[float]]] = {
        content_hash: iter(probabilities(adapters[content_hash].manifest, torch.stack(rows)).tolist())
        for content_hash, rows in together.items()
    }
    return [
        [Row(row, tuple(next(scores[adapter.content_hash]))) for adapter, row in zip(job.adapters, rows, strict=True)]
        for job, rows in zip(jobs, logits, strict=True)
    ]
