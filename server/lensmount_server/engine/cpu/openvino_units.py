"""What runs a range that OpenVINO compiled: requests, and the inputs that an adapter binds to them."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openvino as ov
import torch
from torch import Tensor
from torch.nn import functional as F

from lensmount.errors import ServerError
from lensmount_adapters.lora import LoraDelta


@dataclass
class Request:
    """Runs one batch at a time; `bound` is the unit whose inputs it has now."""

    request: Any
    bound: OpenVinoUnit | None = None


# So many rows, on all cores or on one.
Form = tuple[int, bool]
Requests = Mapping[Form, queue.SimpleQueue[Request]]


class OpenVinoUnit:
    """A range in some fixed batch sizes, each with requests for every lane; what `inputs` holds comes with every row.

    Units with other inputs may share the requests.
    """

    def __init__(
        self, requests: Requests, row_shape: tuple[int, ...], size_bytes: int, inputs: Sequence[Tensor] = ()
    ) -> None:
        self.buckets = tuple(sorted(rows for rows, wide in requests if not wide))
        self.row_shape = row_shape
        self.size_bytes = size_bytes
        self._requests = requests
        self._inputs = [(tensor, ov.Tensor(tensor.numpy(), shared_memory=True)) for tensor in inputs]

    def bind(self, inputs: Sequence[Tensor]) -> OpenVinoUnit:
        """The same compiled range with other inputs (float32, contiguous), whose memory it shares."""
        return OpenVinoUnit(self._requests, self.row_shape, 0, inputs)

    def run(self, x: Tensor, out: Tensor) -> None:
        """Run `x`, as many rows as a bucket, into `out`."""
        self._infer((len(x), False), x, out)

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        """Run a single row on all cores; False where that form was not compiled."""
        if (1, True) not in self._requests:
            return False
        self._infer((1, True), x, out)
        return True

    def warm_up(self, probe: Tensor) -> None:
        """Run every form on every lane at once: a first run allocates, and takes several times as long."""
        for (rows, _), idle in self._requests.items():
            x = probe[torch.arange(rows) % len(probe)].contiguous()
            outs = [torch.empty((rows, *self.row_shape)) for _ in range(idle.qsize())]
            taken = [idle.get() for _ in outs]
            for each, out in zip(taken, outs, strict=True):
                self._bind(each)
                each.request.set_output_tensor(ov.Tensor(out.numpy(), shared_memory=True))
                each.request.start_async({0: ov.Tensor(x.numpy(), shared_memory=True)})
            for each in taken:
                each.request.wait()
                idle.put(each)

    def _infer(self, form: Form, x: Tensor, out: Tensor) -> None:
        with _one_of(self._requests[form]) as each:
            self._bind(each)
            each.request.set_output_tensor(ov.Tensor(out.numpy(), shared_memory=True))
            each.request.infer({0: ov.Tensor(x.numpy(), shared_memory=True)})

    def _bind(self, each: Request) -> None:
        if each.bound is self:
            return
        each.bound = None  # until all are this unit's: half of them would answer for nobody
        for index, (_, tensor) in enumerate(self._inputs, start=1):
            each.request.set_input_tensor(index, tensor)
        each.bound = self


class OpenVinoLora:
    """A range that takes A, B and scale of every edited module as inputs: one for all adapters of a structure."""

    def __init__(self, unit: OpenVinoUnit, ranks: Mapping[str, int]) -> None:
        self.size_bytes = unit.size_bytes
        self._unit = unit
        self._ranks = ranks

    def bind(self, deltas: Mapping[str, LoraDelta]) -> OpenVinoUnit:
        """The range with these edits: exactly the modules that it was compiled for, of at most their ranks."""
        if deltas.keys() != self._ranks.keys():
            raise ServerError("other modules than it was compiled for", field="adapter", value=sorted(deltas))
        inputs = [tensor for name, rank in self._ranks.items() for tensor in _padded(deltas[name], rank)]
        return self._unit.bind(inputs)


def _padded(delta: LoraDelta, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and the scale in float32; zeros fill the rank up. What has it already is not copied."""
    missing = rank - delta.a.shape[0]
    a, b = delta.a.detach().float(), delta.b.detach().float()
    if missing:
        a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
    return a.contiguous(), b.contiguous(), torch.tensor([delta.scale])


def requests_of(compiled: Any) -> queue.SimpleQueue[Request]:
    """As many requests as a compiled form runs at a time."""
    idle: queue.SimpleQueue[Request] = queue.SimpleQueue()
    for _ in range(max(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"), 1)):
        idle.put(Request(compiled.create_infer_request()))
    return idle


@contextlib.contextmanager
def _one_of(idle: queue.SimpleQueue[Request]) -> Iterator[Request]:
    each = idle.get()
    try:
        yield each
    finally:
        idle.put(each)
