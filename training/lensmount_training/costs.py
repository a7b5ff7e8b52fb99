"""What a task costs on a shared server: the measured times of its own part of the backbone on this machine.

Tasks share the segments before their fork, so a further task costs the segments from its fork on, and what its
low-rank edits add to them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.lora import LoraConfig, LoraDelta
from lensmount_training.strategies.strategy import Trained

BATCH = 8
REPETITIONS = 15


@dataclass(frozen=True)
class Times:
    """Median seconds of every segment for a batch of `BATCH`, in forward order."""

    segments: tuple[float, ...]

    def tail(self, fork: int) -> float:
        """Seconds of the segments from `fork` on."""
        return sum(self.segments[fork:])


def segment_times(
    backbone: Backbone, deltas: Mapping[str, LoraDelta] | None = None, repetitions: int = REPETITIONS
) -> Times:
    """Measure every segment on noise; with `deltas`, by module, the products with A and B are made beside."""
    own = backbone.preprocessing
    rows = torch.randint(0, 256, (BATCH, 3, own.height, own.width), dtype=torch.uint8).to(backbone.device)
    x = own.normalize(rows)
    with torch.inference_mode(), _edited(backbone.model, deltas or {}):
        _pass(backbone, x)  # memory is taken and kernels are chosen in the first
        passes = [_pass(backbone, x) for _ in range(repetitions)]
    return Times(tuple(median(column) for column in zip(*passes, strict=True)))


def marginal_seconds(backbone: Backbone, trained: Trained, plain: Times, repetitions: int = REPETITIONS) -> float:
    """What a batch of `BATCH` rows of this task adds; `plain` are the times without edits.

    Both are measured on their own, so what edits cost can come out as a little less than nothing: it counts as
    nothing then.
    """
    names = [segment.name for segment in backbone.segments]
    fork = min((names.index(edit.segment) for edit in trained.edits), default=len(names))
    deltas = deltas_of(trained)
    overhead = segment_times(backbone, deltas, repetitions).tail(fork) - plain.tail(fork) if deltas else 0.0
    return plain.tail(fork) + max(overhead, 0.0)


def deltas_of(trained: Trained) -> dict[str, LoraDelta]:
    """The low-rank edits of what was trained, by module."""
    if trained.lora is None:
        return {}
    config = LoraConfig.model_validate(dict(trained.lora))
    suffix = ".lora_A.weight"
    modules = [name.removesuffix(suffix) for name in trained.tensors if name.endswith(suffix)]
    halves = {name: [trained.tensors[f"{name}.lora_{side}.weight"] for side in "AB"] for name in modules}
    return {name: LoraDelta(a, b, config.scale(name)) for name, (a, b) in halves.items()}


def _pass(backbone: Backbone, x: Tensor) -> Sequence[float]:
    seconds = []
    for segment in backbone.segments:
        started = time.perf_counter()
        x = segment(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - started)
    return seconds


@contextmanager
def _edited(model: nn.Module, deltas: Mapping[str, LoraDelta]) -> Iterator[None]:
    """Modules of the model add their edits to what they give."""
    device = next(model.parameters()).device
    handles = [
        model.get_submodule(name).register_forward_hook(partial(_with_delta, delta.to(device)))
        for name, delta in deltas.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_delta(delta: LoraDelta, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output + delta.of(module, inputs[0])
