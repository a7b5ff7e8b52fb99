"""An exponential moving average of what is learned (Polyak and Juditsky, 1992), often better than the last step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages of parameters; the decay rises from 0.1 to its own, so that the start is forgotten soon."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.values: list[Tensor] = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step`, from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for value, parameter in zip(self.values, self._parameters, strict=True):
            value.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand in the parameters' place; their own values come back."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        copy_into(self._parameters, self.values)
        try:
            yield
        finally:
            copy_into(self._parameters, own)


@torch.no_grad()
def copy_into(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Overwrite tensors with values, one by one."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
