"""The rival: a training loop as the tutorials of PyTorch and timm have it, with nothing left out that helps it.

A DataLoader with two workers that stay over an ImageFolder with timm's own evaluation transform, all cores for torch,
no gradients where nothing learns. Every epoch is judged on the validation pictures and the best one counts, as on our
side. Modules are in evaluation mode on both sides: BatchNorm stays on its statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from lensmount_adapters.backbones import Backbone
from lensmount_training.bench.material import Material
from lensmount_training.strategies.whole import blocks, whole

BATCH, WORKERS = 32, 2

Forward = Callable[[Tensor], Tensor]
# Learning rates of the blocks and of the head.
Rates = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Loaders:
    """Batches of normalised pictures float32 (n, 3, height, width) with their targets int64 (n,)."""

    train: DataLoader[Any]
    validation: DataLoader[Any]

    @classmethod
    def of(cls, material: Material, backbone: Backbone) -> Loaders:
        """Of both parts; the training pictures in random order."""
        return cls(_loader(material.train, backbone, shuffle=True), _loader(material.validation, backbone))


def train_head(backbone: Backbone, material: Material, epochs: int, rate: float) -> float:
    """A linear head on the frozen backbone, Adam on the cross-entropy; the best validation accuracy."""
    loaders = Loaders.of(material, backbone)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(backbone.features, _labels(loaders))

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            features = backbone.model(x)
        logits: Tensor = head(features)
        return logits

    return train(forward, torch.optim.Adam(head.parameters(), lr=rate), loaders, epochs)


def train_last_blocks(backbone: Backbone, material: Material, epochs: int, count: int, rates: Rates) -> float:
    """The last `count` blocks and a head, the whole model run for every batch; the best validation accuracy."""
    loaders = Loaders.of(material, backbone)
    model, groups = last_blocks(backbone, _labels(loaders), count, rates)
    return train(model, torch.optim.Adam(groups), loaders, epochs)


def last_blocks(backbone: Backbone, labels: int, count: int, rates: Rates) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Timm's model with a classifier, gradients in its last blocks only, and what Adam is to be given."""
    copied = whole(backbone, labels)
    last = range(blocks(backbone)[count - 1], len(copied.segments))
    deep = [own for index in last for own in copied.learnable(index)]
    copied.head.requires_grad_()
    groups = [{"params": deep, "lr": rates[0]}, {"params": [*copied.head.parameters()], "lr": rates[1]}]
    model: nn.Module = copied.model
    return model, groups


def train(forward: Forward, optimizer: torch.optim.Optimizer, loaders: Loaders, epochs: int) -> float:
    """So many epochs; the best validation accuracy."""
    best = 0.0
    for _ in range(epochs):
        for x, targets in loaders.train:
            step(forward, optimizer, x, targets)
        best = max(best, accuracy(forward, loaders.validation))
    return best


def step(forward: Forward, optimizer: torch.optim.Optimizer, x: Tensor, targets: Tensor) -> None:
    """One step on the mean cross-entropy."""
    loss = F.cross_entropy(forward(x), targets)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def accuracy(forward: Forward, loader: DataLoader[Any]) -> float:
    """The share that is right."""
    right = [(forward(x).argmax(1) == targets).double() for x, targets in loader]
    return float(torch.cat(right).mean())


def _loader(folder: Path, backbone: Backbone, *, shuffle: bool = False) -> DataLoader[Any]:
    transform = create_transform(**resolve_model_data_config(backbone.model))
    return DataLoader(
        ImageFolder(str(folder), transform),
        BATCH,
        shuffle,
        num_workers=WORKERS,
        persistent_workers=WORKERS > 0,
        generator=torch.Generator().manual_seed(0),
    )


def _labels(loaders: Loaders) -> int:
    pictures: Any = loaders.train.dataset
    return len(pictures.classes)
