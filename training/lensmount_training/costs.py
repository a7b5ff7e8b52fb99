"""What the segments of a backbone take on this machine: the price of editing them."""

from __future__ import annotations

import time
from statistics import median

import torch

from lensmount_adapters.backbones import Backbone

ROWS, REPETITIONS = 8, 3


@torch.inference_mode()
def segment_seconds(backbone: Backbone, repetitions: int = REPETITIONS) -> tuple[float, ...]:
    """Seconds a picture for each segment, in batches of `ROWS`: medians, after one pass that does not count."""
    size = backbone.preprocessing
    pictures = torch.zeros(ROWS, 3, size.height, size.width, dtype=torch.uint8, device=backbone.device)
    passes = [_pass(backbone, size.normalize(pictures)) for _ in range(repetitions + 1)][1:]
    return tuple(median(times) / ROWS for times in zip(*passes, strict=True))


def _pass(backbone: Backbone, x: torch.Tensor) -> list[float]:
    times = []
    for segment in backbone.segments:
        start = time.perf_counter()
        x = segment(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times
