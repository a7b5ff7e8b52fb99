"""LoRA (arXiv 2106.09685) on the last segments, by PEFT, from cached activations at the fork."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.lora import MAX_RANK
from lensmount_adapters.manifest import Edit
from lensmount_training.context import Context
from lensmount_training.features import PLAIN, Cache, at_fork, batches
from lensmount_training.strategies.descent import Schedule, descend
from lensmount_training.strategies.probe import Examples, Probe, fit_probe
from lensmount_training.strategies.strategy import Problem, Settings, Trained
from lensmount_training.strategies.tuned import adapt, lora_targets


@dataclass(frozen=True)
class Lora:
    """Low-rank edits of the last `last_segments` segments (None: half of them) and a linear head.

    Everything else stays as it is, BatchNorm statistics included. The probe on the same activations
    is the floor that the edits must beat; its accuracy goes into the metrics.
    """

    name: ClassVar[str] = "lora"

    rank: int = 8
    alpha: float = 16.0
    last_segments: int | None = None
    views: tuple[str, ...] = ("identity", "hflip")
    schedule: Schedule = field(default_factory=Schedule)

    def train(self, problem: Problem, context: Context) -> Trained:
        """Cache activations at the fork, fit the probe, train the tail, keep the best epoch."""
        backbone = problem.backbone
        targets = lora_targets(backbone, self._last(backbone))
        fork = min(targets)
        train = at_fork(backbone, fork, problem.train, self.views, context)
        validation = at_fork(backbone, fork, problem.validation, PLAIN, context)
        probe = _probe(problem, fork, train, validation)
        tuned = adapt(problem, targets, self.rank, self.alpha)
        best = descend(tuned, train, validation, self.schedule, problem, context)
        return Trained(
            tensors=tuned.tensors(),
            lora=tuned.config(),
            forward=tuned.merge(),
            settings=self._settings(backbone),
            edits=tuple(Edit(segment=backbone.segments[index].name, kind="lora") for index in sorted(targets)),
            metrics={"probe_validation_accuracy": probe.validation_accuracy, "best_epoch": best},
        )

    def _last(self, backbone: Backbone) -> int:
        count = len(backbone.segments)
        last = math.ceil(count / 2) if self.last_segments is None else self.last_segments
        if not 1 <= last <= count:
            fix = f"give --last-segments a number from 1 to {count}"
            raise InvalidInputError(f"{backbone.name} has {count} segments", field="last_segments", value=last, fix=fix)
        if not 1 <= self.rank <= MAX_RANK:
            fix = f"give --rank a number from 1 to {MAX_RANK}"
            raise InvalidInputError("out of range", field="rank", value=self.rank, fix=fix)
        return last

    def _settings(self, backbone: Backbone) -> Settings:
        own = {"rank": self.rank, "alpha": self.alpha, "views": ",".join(self.views)}
        return {**own, "last_segments": self._last(backbone), **asdict(self.schedule)}


def _probe(problem: Problem, fork: int, train: Cache, validation: Cache) -> Probe:
    return fit_probe(
        _pooled(problem.backbone, fork, train), _pooled(problem.backbone, fork, validation), problem.class_weights
    )


@torch.no_grad()
def _pooled(backbone: Backbone, fork: int, cache: Cache) -> Examples:
    parts: list[Tensor] = []
    for view in cache.views:
        for own in batches(len(view)):
            x = view[own].to(backbone.device).float()
            parts.append(backbone.pool(backbone.forward_features(x, start=fork)).cpu())
    return Examples(torch.cat(parts), cache.targets.repeat(len(cache.views)))
