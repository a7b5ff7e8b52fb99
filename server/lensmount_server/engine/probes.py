"""What goes in and out of every segment when random pictures go through the backbone.

Ranges are traced with it, and what was compiled is checked against it before it answers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.lowered import twin
from lensmount_server.engine.ranges import SegmentRange, whole

PROBE_ROWS = 2
# Root mean square of the pooled features' difference to fp32, relative to the features: more is too coarse to serve.
COARSE = 2e-2


class Probes:
    """The backbone's own answers, PROBE_ROWS rows each, computed once a picture size; for any thread."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        # Modules of its own over the same tensors: those of `backbone` may carry an adapter's edits at any moment.
        self._quiet = twin(backbone)
        self._known: dict[Preprocessing, list[Tensor]] = {}
        self._computing = threading.Lock()

    def at(self, range_: SegmentRange) -> Tensor:
        """Input of a range."""
        return self._through(range_.preprocessing)[range_.start]

    def behind(self, range_: SegmentRange) -> Tensor:
        """What the backbone's own range gives on that input, float32."""
        return self._through(range_.preprocessing)[range_.stop]

    def _through(self, preprocessing: Preprocessing) -> list[Tensor]:
        with self._computing:
            if preprocessing not in self._known:
                self._known[preprocessing] = _run(self._quiet, preprocessing)
            return self._known[preprocessing]

    def pooled_error(self, features: Tensor) -> float:
        """How far `features`, which somebody made of the probe pictures, are from the backbone's own, both pooled."""
        backbone = self._backbone
        with torch.inference_mode():
            return relative_error(backbone.pool(features), backbone.pool(self.behind(whole(backbone))))


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, relative to that of `wanted`; NaN when `got` holds a NaN."""
    return float((got - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt().clamp_min(1e-12))


def _run(backbone: Backbone, preprocessing: Preprocessing) -> list[Tensor]:
    with as_is():
        generator = torch.Generator().manual_seed(0)
        shape = (PROBE_ROWS, 3, preprocessing.height, preprocessing.width)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(backbone.device)
        return [pictures, *_borders(backbone, preprocessing.normalize(pictures))]


def _borders(backbone: Backbone, x: Tensor) -> Iterator[Tensor]:
    for segment in backbone.segments:
        x = segment(x)
        yield x.contiguous()


@contextmanager
def as_is() -> Iterator[None]:
    """No gradients, and no inference tensors, which a tracer can not take."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield
