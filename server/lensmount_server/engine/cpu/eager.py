"""Ranges run by torch itself: the fallback where no compiler is, and where one is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lensmount_adapters.backbones import Backbone, Segment
from lensmount_adapters.backbones.families import segments_of
from lensmount_server.engine.cpu.units import NO_TENSORS, Options
from lensmount_server.engine.lowered import DTYPES, lowered, twin, with_tensors
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.ranges import SegmentRange

# Torch uses all cores inside an operator; these sizes only keep the activations in the cache.
BUCKETS = (1, 2, 4, 8)


class EagerCompiler:
    """Runs segments with torch's own operators in `precision`, convolutions channels-last."""

    name = "torch"
    lanes = 1

    def __init__(self, backbone: Backbone, precision: str) -> None:
        self.precision = precision
        self.backbone = lowered(backbone, DTYPES[precision])
        # Copies are taken of modules that nobody runs: those of `backbone` may carry an adapter's deltas just now.
        self._quiet = twin(self.backbone).model
        self.probes = Probes(backbone)

    def compile(self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = NO_TENSORS) -> EagerUnit:
        """The range with `tensors` in place of the backbone's."""
        del options  # torch takes any batch size as it comes
        segments = self.backbone.segments
        if tensors:
            segments = segments_of(with_tensors(self._quiet, tensors))
        shape = tuple(self.probes.behind(range_).shape[1:])
        size = sum(tensor.numel() for tensor in tensors.values()) * DTYPES[self.precision].itemsize
        return EagerUnit(segments[range_.start : range_.stop], range_, DTYPES[self.precision], shape, size)

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> None:
        """None: it would be what the executor does without it."""
        del range_, options, ranks


class EagerUnit:
    """A range of torch modules."""

    buckets = BUCKETS

    def __init__(
        self,
        segments: tuple[Segment, ...],
        range_: SegmentRange,
        dtype: torch.dtype,
        row_shape: tuple[int, ...],
        size_bytes: int,
    ) -> None:
        self.row_shape = row_shape
        self.size_bytes = size_bytes
        self._segments = segments
        self._range = range_
        self._dtype = dtype

    @torch.inference_mode()
    def run(self, x: Tensor, out: Tensor) -> None:
        """Run `x` into `out`."""
        y = self._range.preprocessing.normalize(x) if self._range.start == 0 else x
        y = y.to(self._dtype)
        for segment in self._segments:
            y = segment(y)
        out.copy_(y)

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        """Torch uses all cores anyway."""
        del x, out
        return False
