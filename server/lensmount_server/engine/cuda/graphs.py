"""CUDA graphs of the shared trunk: one for each batch bucket, replayed with one launch.

Up to the first fork all rows are shared and nothing depends on adapters, so the same kernels run
for every batch of a size. A batch is padded to the next bucket; rows do not see each other, so
what the padding holds does not matter. A graph reads and writes buffers of its own (CUDA C++
Programming Guide, "CUDA Graphs"); one that can not be captured runs eagerly, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32)
# What the scheduler sends where nothing was measured: captured before the first batch of its kind comes.
USUAL = (1, 2, 4, 8)
# A graph keeps its activations; more of them than this are not worth their memory.
MOST_GRAPHS = 64
WARM_UPS = 3

# `trunk(stop, x)` runs the segments before `stop`.
Trunk = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Captured:
    """Write `inputs`, call `replay`, read `outputs`: the same tensors every time."""

    inputs: Tensor
    outputs: Tensor
    replay: Callable[[], None]


# From a function and its static input to the captured call; raises RuntimeError when it can not.
Capture = Callable[[Callable[[Tensor], Tensor], Tensor], Captured]


def bucket_of(rows: int) -> int | None:
    """The smallest bucket that holds so many rows; None when they are more than the largest."""
    return next((bucket for bucket in BUCKETS if rows <= bucket), None)


class TrunkGraphs:
    """The trunk by replay where it can be captured, eagerly where not; one stream, one thread at a time.

    Without a `capture` everything runs eagerly.
    """

    def __init__(self, trunk: Trunk, capture: Capture | None) -> None:
        self._trunk = trunk
        self._capture = capture
        self._graphs: dict[tuple[int, torch.Size, torch.dtype], Captured | None] = {}

    def run(self, stop: int, x: Tensor) -> Tensor:
        """`trunk(stop, x)`; the result is valid until the next call."""
        bucket = bucket_of(len(x))
        graph = self._graph(stop, bucket, x) if bucket else None
        if graph is None:
            return self._trunk(stop, x)
        graph.inputs[: len(x)].copy_(x)
        graph.replay()
        return graph.outputs[: len(x)]

    def prepare(self, stop: int, x: Tensor) -> None:
        """Capture the graph that `run(stop, x)` would replay, unless it is there or can not be."""
        bucket = bucket_of(len(x))
        if bucket:
            self._graph(stop, bucket, x)

    def _graph(self, stop: int, bucket: int, x: Tensor) -> Captured | None:
        key = (stop, torch.Size([bucket, *x.shape[1:]]), x.dtype)
        if self._capture and key not in self._graphs and len(self._graphs) < MOST_GRAPHS:
            self._graphs[key] = self._try(self._capture, stop, _padded(x, bucket))
        return self._graphs.get(key)

    def _try(self, capture: Capture, stop: int, inputs: Tensor) -> Captured | None:
        try:
            return capture(lambda x: self._trunk(stop, x), inputs)
        except RuntimeError as error:  # what torch and CUDA raise for an operation that a graph can not hold
            log.warning("segments before %d run eagerly for batches of %d: %s", stop, len(inputs), error)
            return None


class CudaCapture:
    """Captures on one device. Its graphs share a memory pool: they are never replayed at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Captured:
        """Capture `function(inputs)`; first runs it some times, for libraries to set themselves up outside it."""
        _warm_up(function, inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads pin memory meanwhile; only this one must keep to what a graph can hold.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(inputs)
        return Captured(inputs, outputs, graph.replay)


def _warm_up(function: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch types it not
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function(inputs)
    torch.cuda.current_stream().wait_stream(side)


def _padded(x: Tensor, bucket: int) -> Tensor:
    """A buffer for the bucket, laid out in memory as x is, with x's rows first."""
    shape = (bucket, *x.shape[1:])
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    buffer = torch.zeros(shape, dtype=x.dtype, device=x.device).contiguous(memory_format=layout)
    buffer[: len(x)] = x
    return buffer
