"""What a strategy gets and what it gives back. It never sees the test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.manifest import Edit
from lensmount_training.context import Context
from lensmount_training.data.dataset import Pictures
from lensmount_training.data.listing import Kind

Settings = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, eq=False)
class Problem:
    """What to learn: the backbone (not to be changed), labels, and pictures to learn and to choose by."""

    backbone: Backbone
    labels: tuple[str, ...]
    train: Pictures
    validation: Pictures
    seed: int
    kind: Kind = "single_label"

    @property
    def class_weights(self) -> Tensor:
        """float32 (labels,).

        Single-label: what a picture of each class weighs, so that all classes weigh the same in sum; mean 1 over the
        pictures. Multi-label: what a picture that has the label weighs beside one that has not, so that both sides
        weigh the same (BCEWithLogitsLoss's `pos_weight`), 20 at most.
        """
        if self.kind == "multi_label":
            having = self.train.targets.sum(0)
            return ((len(self.train) - having) / having.clamp(min=1)).clamp(0.05, 20).float()
        counts = torch.bincount(self.train.targets, minlength=len(self.labels))
        return len(self.train) / (len(self.labels) * counts.float())


@dataclass(frozen=True, eq=False)
class Trained:
    """An adapter before it is packed.

    `tensors` are named as in the model and are all that a package holds;
    `forward` goes from normalised rows (n, 3, height, width) to logits (n, labels) in fp32, `lora` is PEFT's config
    or None, `settings` what the strategy used and `metrics` what it measured on the way.
    """

    tensors: Mapping[str, Tensor]
    forward: Callable[[Tensor], Tensor]
    settings: Settings
    edits: tuple[Edit, ...] = ()
    lora: Mapping[str, object] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers a package of it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def settings_of(strategy: Any) -> dict[str, str | int | float | bool]:
    """Every field of a strategy's dataclass, those of dataclasses in it among them; None is left out."""
    settings: dict[str, str | int | float | bool] = {}
    for own in fields(strategy):
        value = getattr(strategy, own.name)
        if is_dataclass(value):
            settings.update(settings_of(value))
        elif isinstance(value, tuple):
            settings[own.name] = ",".join(map(str, value))
        elif value is not None:
            settings[own.name] = value
    return settings


class Strategy(Protocol):
    """A way to train; its attributes are its settings."""

    @property
    def name(self) -> str:
        """The word on the command line and in the package."""

    def train(self, problem: Problem, context: Context) -> Trained:
        """Train; the same problem and settings give the same tensors to the bit on the same machine.

        So they do when a process that was killed on the way is started again with the same `context.checkpoints`.
        Raises InvalidInputError for a setting that can not work, and when the loss is no number.
        """
