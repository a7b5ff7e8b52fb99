"""Adapters on the device: for every module that one of them edits a stack of slots, and replaced segments beside.

A slot is written on the stream that the passes run on, after every kernel that still reads it; the
table's user counts keep a slot for as long as its pass is being put together. A write that fails
gives the slot back, so a half-loaded adapter is never found by its hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lensmount_adapters.adapter import Adapter
from lensmount_adapters.lora import LoraDelta
from lensmount_server.engine.cuda.configs import padded_rank
from lensmount_server.engine.cuda.slot_table import SlotTable
from lensmount_server.engine.cuda.stack import Stack

Replaced = Mapping[int, Mapping[str, Tensor]]


class Slots:
    """`count` adapters of a model at a time, their floating point tensors in `dtype` on the model's device."""

    def __init__(self, model: nn.Module, count: int, dtype: torch.dtype) -> None:
        self.table = SlotTable(count)
        self._model = model
        self._dtype = dtype
        self._stacks: dict[str, Stack] = {}
        self._replaced: dict[int, Replaced] = {}

    @property
    def bytes(self) -> int:
        """What stacks (used or not) and replaced tensors take on the device."""
        replaced = (
            tensor for own in self._replaced.values() for tensors in own.values() for tensor in tensors.values()
        )
        return sum(stack.bytes for stack in self._stacks.values()) + sum(t.numel() * t.itemsize for t in replaced)

    @contextmanager
    def leased(self, adapters: Iterable[Adapter]) -> Iterator[Mapping[str, int]]:
        """The slots of these adapters by content hash, loaded and held while this is open.

        Raises UnavailableError when there are not enough slots that are neither pinned nor in use.
        """
        with ExitStack() as held:
            yield {adapter.content_hash: held.enter_context(self._lease(adapter)) for adapter in adapters}

    def load(self, adapter: Adapter) -> None:
        """Bring an adapter into a slot before a pass wants it."""
        with self.leased([adapter]):
            pass

    def drop(self, content_hash: str) -> None:
        """Forget an adapter. Raises ConflictError while a pass uses it, NotFoundError when it is not here."""
        self._replaced.pop(self.table.drop(content_hash), None)

    def module(self, name: str) -> nn.Linear | nn.Conv2d:
        """A module that LoRA may edit, by its name in the model."""
        module = self._model.get_submodule(name)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise TypeError(f"{name} is a {type(module).__name__}; fit() lets LoRA edit Linear and Conv2d only")
        return module

    def stack(self, module: str) -> Stack:
        """The slots of a module that a loaded adapter edits, by its name in the model."""
        return self._stacks[module]

    def replaced(self, slot: int, segment: int) -> Mapping[str, Tensor] | None:
        """What the adapter in the slot has in place of a segment's tensors; None when it leaves them."""
        return self._replaced[slot].get(segment)

    @contextmanager
    def _lease(self, adapter: Adapter) -> Iterator[int]:
        place = self.table.acquire(adapter.content_hash)
        try:
            if place.fresh:
                self._write(place.slot, adapter)
        except BaseException:  # whatever stopped it, the slot holds half an adapter now
            self.table.release(adapter.content_hash)
            self.drop(adapter.content_hash)
            raise
        try:
            yield place.slot
        finally:
            self.table.release(adapter.content_hash)

    @torch.inference_mode()
    def _write(self, slot: int, adapter: Adapter) -> None:
        self._replaced[slot] = {
            index: {name: self._own(tensor) for name, tensor in tensors.items()}
            for index, tensors in adapter.replaced.items()
        }
        for stack in self._stacks.values():
            stack.clear(slot)
        for edits in adapter.lora.values():
            for name, delta in edits.items():
                self._roomy(name, delta).write(slot, delta)

    def _roomy(self, name: str, delta: LoraDelta) -> Stack:
        """The module's stack, made or grown when the delta needs it: a stack has the padded rank of its largest."""
        rank = padded_rank(delta.a.shape[0])
        stack = self._stacks.get(name)
        if stack is None:
            stack = Stack.empty(self.module(name), self.table.count, rank, self._dtype)
        elif stack.rank < rank:
            stack = stack.grown(rank)
        self._stacks[name] = stack
        return stack

    def _own(self, tensor: Tensor) -> Tensor:
        device = next(self._model.parameters()).device
        return tensor.to(device, self._dtype if tensor.is_floating_point() else tensor.dtype)
