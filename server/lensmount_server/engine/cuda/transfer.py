"""Pictures to the device through pinned buffers, on a stream of their own.

A copy from pinned memory runs beside the kernels of the batch before it (CUDA C++ Programming
Guide, "Overlap of Data Transfer and Kernel Execution"). Two orders keep it right: a buffer is
written again only after its last copy has ended, and whatever the compute stream does after
`send` waits for the copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# One batch is copied while the next one is being staged.
DEPTH = 2


@dataclass
class _Buffer:
    """Pinned bytes, and the event behind their last copy."""

    pinned: Tensor
    copied: torch.cuda.Event


class Transfer:
    """Host to one CUDA device; `send` is called from one thread at a time."""

    def __init__(self, device: torch.device, depth: int = DEPTH) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch types it not
        self._ring = [_buffer() for _ in range(depth)]
        self._next = 0

    @torch.inference_mode()
    def send(self, pictures: Tensor) -> Tensor:
        """uint8 pictures on the device; a tensor that is there already comes back as it is.

        The copy may still run when this returns: the device's current stream waits for it, the caller does not.
        """
        if pictures.device == self._device:
            return pictures
        buffer = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        staged = _stage(buffer, pictures)
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            there = staged.to(self._device, non_blocking=True)
            buffer.copied.record(self._stream)
        compute.wait_event(buffer.copied)
        # The memory belongs to the copy stream; its allocator must know who else reads it.
        there.record_stream(compute)
        return there


def _buffer() -> _Buffer:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch types it not
    return _Buffer(torch.empty(0, dtype=torch.uint8), event)


def _stage(buffer: _Buffer, pictures: Tensor) -> Tensor:
    """The pictures in the buffer, which grows to the largest batch that came."""
    buffer.copied.synchronize()
    if buffer.pinned.numel() < pictures.numel():
        buffer.pinned = torch.empty(pictures.numel(), dtype=torch.uint8, pin_memory=True)
    return buffer.pinned[: pictures.numel()].view(pictures.shape).copy_(pictures)
