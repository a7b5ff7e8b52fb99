"""The slots of one module: the A, B, scale and bias of every loaded adapter, stacked and padded to one rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lensmount_adapters.lora import LoraDelta


@dataclass(frozen=True, eq=False)
class Stack:
    """`a` (slots, rank, in), `b` (slots, out, rank), `scale` (slots,) in float32, `bias` (slots, out).

    `in` of a convolution is channels × height × width of its kernel. What lies beyond an adapter's
    own rank is zero, so it adds nothing; an adapter without a bias has zeros there.
    """

    a: Tensor
    b: Tensor
    scale: Tensor
    bias: Tensor

    @classmethod
    def empty(cls, module: nn.Linear | nn.Conv2d, slots: int, rank: int, dtype: torch.dtype) -> Stack:
        """A stack of `slots` without edits for this module, on its device; `rank` as `padded_rank` gives it."""
        device = module.weight.device
        out, fan_in = module.weight.shape[0], module.weight[0].numel()
        return cls(
            torch.zeros(slots, rank, fan_in, dtype=dtype, device=device),
            torch.zeros(slots, out, rank, dtype=dtype, device=device),
            torch.zeros(slots, device=device),
            torch.zeros(slots, out, dtype=dtype, device=device),
        )

    @property
    def rank(self) -> int:
        """The padded rank of every slot."""
        return self.a.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, slots in dimension 0."""
        return self.a, self.b, self.scale, self.bias

    @property
    def bytes(self) -> int:
        """What all slots take on the device."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.tensors)

    def grown(self, rank: int) -> Stack:
        """A copy with room for `rank`, every slot as it was."""
        slots, own, fan_in = self.a.shape
        a, b = self.a.new_zeros(slots, rank, fan_in), self.b.new_zeros(slots, self.b.shape[1], rank)
        a[:, :own] = self.a
        b[:, :, :own] = self.b
        return Stack(a, b, self.scale, self.bias)

    def write(self, slot: int, delta: LoraDelta) -> None:
        """Put an adapter's edit, of at most this rank, in place of what the slot held."""
        rank = delta.a.shape[0]
        self.clear(slot)
        self.a[slot, :rank] = delta.a.reshape(rank, -1)
        self.b[slot, :, :rank] = delta.b.reshape(-1, rank)
        self.scale[slot] = delta.scale
        if delta.bias is not None:
            self.bias[slot] = delta.bias

    def clear(self, slot: int) -> None:
        """Leave nothing of the slot's last adapter."""
        for tensor in self.tensors:
            tensor[slot] = 0
