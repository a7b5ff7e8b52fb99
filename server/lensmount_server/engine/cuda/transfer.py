"""Pictures to the device through pinned buffers, on a stream of their own, and logits back through another.

A copy from pinned memory runs beside the kernels of the batch before it (CUDA C++ Programming
Guide, "Overlap of Data Transfer and Kernel Execution"). Two orders keep it right: a buffer is
written again only after its last copy has ended, and whatever the compute stream does after
`send` waits for the copy. Logits come back on the compute stream, behind what computes them, and the
host waits for them once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# One pass's pictures are copied while the next one's are being staged.
DEPTH = 2

# Starts to copy a tensor of the device into one of the host; what it gives waits until that is done.
Download = Callable[[Tensor, Tensor], Callable[[], None]]


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


class Fetch:
    """Tensors of one device to the host, with one copy and one wait; called from one thread at a time."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self._buffer = torch.empty(0)

    @torch.inference_mode()
    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same float32 tensors on the host, in memory of their own; waits for whatever computes them."""
        if not tensors:
            return []
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        if self._buffer.numel() < flat.numel():
            self._buffer = torch.empty(flat.numel(), pin_memory=flat.is_cuda)
        here = self._buffer[: flat.numel()]
        self._download(flat, here)()
        parts = torch.split(here.clone(), [tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class PinnedDownload:
    """Copies from one CUDA device into pinned memory, behind what its current stream has been given."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch types it not

    def __call__(self, there: Tensor, here: Tensor) -> Callable[[], None]:
        """Start the copy; call what this gives before `here` is read, or the next copy begun."""
        here.copy_(there, non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self._device))
        return self._copied.synchronize


def _buffer() -> _Buffer:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch types it not
    return _Buffer(torch.empty(0, dtype=torch.uint8), event)


def _stage(buffer: _Buffer, pictures: Tensor) -> Tensor:
    """The pictures in the buffer, which grows to the largest batch that came."""
    buffer.copied.synchronize()
    if buffer.pinned.numel() < pictures.numel():
        buffer.pinned = torch.empty(pictures.numel(), dtype=torch.uint8, pin_memory=True)
    return buffer.pinned[: pictures.numel()].view(pictures.shape).copy_(pictures)
