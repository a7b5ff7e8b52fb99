"""What a descent trains: a model from its fork to logits, parameters in groups, statistics that may follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that share a learning rate."""

    name: str
    rate: float
    parameters: tuple[nn.Parameter, ...]


@dataclass(frozen=True, eq=False)
class Learner:
    """`tail` goes from what enters at the fork to logits (n, labels).

    All modules are in evaluation mode, which keeps BatchNorm on its statistics; gradients flow all the same. Only
    `norms` follow the batches while a step is computed.
    """

    tail: Callable[[Tensor], Tensor]
    groups: tuple[Group, ...]
    norms: tuple[nn.Module, ...] = ()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is learned."""
        return [parameter for group in self.groups for parameter in group.parameters]

    @property
    def state(self) -> list[Tensor]:
        """All that training changes: parameters, and the statistics of `norms`."""
        return [*self.parameters, *(buffer for norm in self.norms for buffer in norm.buffers())]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.parameters[0].device

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Statistics of `norms` follow what runs within."""
        for norm in self.norms:
            norm.train()
        try:
            yield
        finally:
            for norm in self.norms:
                norm.eval()
