"""What a descent eats: batches of pictures as they enter the tail, from a cache or from pixels.

What is drawn for a batch (views, dropout, augmentation) comes from the batch's own seed, for all its pictures, so that
a process that takes only a share of them sees what it would have seen among all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lensmount_training.features import Cache


class Feed(Protocol):
    """Pictures in a fixed order with their targets: int64 (n,), or float32 (n, labels) for multi-label."""

    @property
    def targets(self) -> Tensor:
        """Of every picture."""

    def batch(self, rows: Tensor, seed: int, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch to learn from; of its rows, int64, those at the positions `mine`."""

    def plain(self, rows: slice) -> Tensor:
        """Inputs of pictures as they are, to judge by."""

    def enter(self, inputs: Tensor) -> Tensor:
        """Inputs, or some of them, as they enter the tail; no gradient comes back."""


@dataclass(frozen=True, eq=False)
class CachedFeed:
    """Cached activations at the fork, each picture in a random one of the cached views."""

    cache: Cache
    device: torch.device

    @property
    def targets(self) -> Tensor:
        """Of every picture."""
        return self.cache.targets

    def batch(self, rows: Tensor, seed: int, mine: Tensor) -> tuple[Tensor, Tensor]:
        """float16 activations in random views."""
        views = torch.randint(len(self.cache.views), (len(rows),), generator=torch.Generator().manual_seed(seed))
        return self.cache.take(rows[mine], views[mine]), self.targets[rows[mine]]

    def plain(self, rows: slice) -> Tensor:
        """float16 activations of the picture as it is."""
        return self.cache.plain(rows)

    def enter(self, inputs: Tensor) -> Tensor:
        """In float32, on the device."""
        return inputs.to(self.device).float()


@dataclass(frozen=True, eq=False)
class PooledFeed:
    """Pooled features float32 (n, views, length), each picture in a random view, a share of its features dropped."""

    features: Tensor
    own_targets: Tensor
    device: torch.device
    dropout: float = 0.0

    @property
    def targets(self) -> Tensor:
        """Of every picture."""
        return self.own_targets

    def batch(self, rows: Tensor, seed: int, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Features in random views, those kept scaled up by 1 / (1 - dropout) (Srivastava et al., JMLR 2014)."""
        random = torch.Generator().manual_seed(seed)
        views = torch.randint(self.features.shape[1], (len(rows),), generator=random)
        inputs = self.features[rows[mine], views[mine]]
        if self.dropout:
            kept = torch.rand(len(rows), self.features.shape[2], generator=random) >= self.dropout
            inputs = inputs * kept[mine] / (1 - self.dropout)
        return inputs, self.targets[rows[mine]]

    def plain(self, rows: slice) -> Tensor:
        """Features of the picture as it is."""
        return self.features[rows, 0]

    def enter(self, inputs: Tensor) -> Tensor:
        """On the device."""
        return inputs.to(self.device)
