"""Several processes that train one model together, started by torchrun or `accelerate launch`.

Each takes its share of every batch. What they add up is a part of the same sum, so the result is that of one process
but for the order of additions. Only the first writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from lensmount_training.context import Context

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """One process, number `rank` of `count`; alone it has nothing to share, and nothing here does anything."""

    rank: int = 0
    count: int = 1

    def mine(self, length: int) -> Tensor:
        """Positions, int64, of this process's share of a batch of `length`.

        Shares hold pairs of the first and the last, the second and the last but one; within a share such a pair is
        again at the same distance from both ends, so that mixing a share with its reverse is mixing the batch with
        its own. The middle of an odd batch stands last.
        """
        first = torch.arange(length // 2)[self.rank :: self.count]
        middle = [length // 2] if length % 2 and self.rank == self.count - 1 else []
        return torch.cat([first, (length - 1 - first).flip(0), torch.tensor(middle, dtype=torch.int64)])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating-point tensors by their sums over all processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, own in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(own.view_as(tensor))

    def same(self, value: T) -> T:
        """The first process's value."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all are here."""
        if self.count > 1:
            distributed.barrier()

    def context(self, context: Context) -> Context:
        """The context as it is for the first; the others keep the cache, read checkpoints of nobody and say nothing."""
        if self.rank == 0:
            return context
        return Context(cache=context.cache)


def current() -> Processes:
    """Which process this is of those that the launcher started; connects to them at the first call."""
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        from accelerate import PartialState  # noqa: PLC0415 takes a second, and only those that a launcher started need it

        PartialState(cpu=not torch.cuda.is_available())
    return Processes(distributed.get_rank(), distributed.get_world_size())
