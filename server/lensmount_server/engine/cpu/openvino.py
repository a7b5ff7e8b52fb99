"""Ranges compiled by OpenVINO.

The backbone is traced once; every range is cut out of that one graph, and an adapter's range
is the same cut with other constants, or with inputs for its low-rank tensors. So nothing is
traced while the server answers, a merged tail is compiled in a tenth of a second for each
batch size, and a LoRA form once for all adapters of one structure, without Python.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import openvino as ov
import torch
from openvino.frontend import (
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)
from torch import Tensor

from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.lora import LoraDelta
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.graphs import cut, put, traced, with_lora
from lensmount_server.engine.cpu.openvino_units import OpenVinoLora, OpenVinoUnit, requests_of
from lensmount_server.engine.cpu.units import NO_TENSORS, Options
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.probes import PROBE_ROWS, Probes, relative_error
from lensmount_server.engine.ranges import SegmentRange

HINTS = {"fp32": "f32", "bf16": "bf16"}
# Root mean square of the difference to torch's fp32, relative to the output's: what rounding can explain.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}
# What OpenVINO and the tracer raise; those of the front end have no common base.
FAILURES = (
    RuntimeError,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)


class OpenVinoCompiler:
    """Compiles ranges of one backbone for `lanes` cores. May be used by several threads."""

    name = "openvino"

    def __init__(self, backbone: Backbone, precision: str, lanes: int) -> None:
        self.precision = precision
        self.lanes = lanes
        self._backbone = backbone
        self.probes = Probes(backbone)
        self._core = ov.Core()
        self._graphs: dict[Preprocessing, Any] = {}
        self._tracing = threading.Lock()

    def compile(
        self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = NO_TENSORS
    ) -> OpenVinoUnit:
        """The range with `tensors` in place of the backbone's; raises ServerError when it does not work."""
        with self._told():
            graph = cut(self._whole(range_.preprocessing), range_)
            put(graph, tensors)
            unit = self._unit(graph, range_, options)
            unit.warm_up(self.probes.at(range_))
            if not tensors:
                self._check(unit, range_)
        return unit

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> OpenVinoLora | None:
        """The range with room for a LoRA edit of each module in `ranks`; see `Compiler`."""
        with self._told():
            graph = with_lora(cut(self._whole(range_.preprocessing), range_), ranks)
            if graph is None:
                return None
            lora = OpenVinoLora(self._unit(graph, range_, options), ranks)
            unit = lora.bind({name: self._nothing(name, rank) for name, rank in ranks.items()})
            unit.warm_up(self.probes.at(range_))
            self._check(unit, range_)
        return lora

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever OpenVINO raises becomes one ServerError."""
        try:
            yield
        except FAILURES as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            message, fix = f"OpenVINO can not compile it: {reason}", "serve with --engine torch"
            raise ServerError(message, field="engine", value=self._backbone.name, fix=fix) from error

    def _whole(self, preprocessing: Preprocessing) -> Any:
        with self._tracing:
            if preprocessing not in self._graphs:
                range_ = SegmentRange(0, len(self._backbone.segments), preprocessing)
                self._graphs[preprocessing] = traced(self._backbone, preprocessing, self.probes.at(range_))
            return self._graphs[preprocessing]

    def _unit(self, graph: Any, range_: SegmentRange, options: Options) -> OpenVinoUnit:
        row_shape = tuple(self.probes.at(range_).shape[1:])
        requests = {form: requests_of(compiled) for form, compiled in self._forms(graph, row_shape, options).items()}
        size = self._weigh(range_) * len(requests)
        return OpenVinoUnit(requests, tuple(self.probes.behind(range_).shape[1:]), size)

    def _nothing(self, module: str, rank: int) -> LoraDelta:
        """An edit that changes nothing."""
        out_features, in_features = self._backbone.model.get_parameter(f"{module}.weight").shape
        return LoraDelta(torch.zeros(rank, in_features), torch.zeros(out_features, rank), 1.0)

    def _forms(self, graph: Any, row_shape: tuple[int, ...], options: Options) -> dict[tuple[int, bool], Any]:
        side_by_side = {"NUM_STREAMS": self.lanes, "INFERENCE_NUM_THREADS": self.lanes}
        forms = {(rows, False): self._compiled(graph, (rows, *row_shape), side_by_side) for rows in options.buckets}
        if options.wide and self.lanes > 1:
            forms[1, True] = self._compiled(
                graph, (1, *row_shape), {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": self.lanes}
            )
        return forms

    def _compiled(self, graph: Any, shape: tuple[int, ...], threads: Mapping[str, int]) -> Any:
        fixed = graph.clone()
        fixed.reshape({fixed.input(0): list(shape)})
        # Pinned threads of two servers would sit on the same cores.
        settings = {"INFERENCE_PRECISION_HINT": HINTS[self.precision], "ENABLE_CPU_PINNING": False, **threads}
        return self._core.compile_model(fixed, "CPU", settings)

    def _weigh(self, range_: SegmentRange) -> int:
        state: dict[str, Tensor] = self._backbone.model.state_dict()
        own = self._backbone.segments[range_.start : range_.stop]
        count = sum(t.numel() for name, t in state.items() if any(segment.owns_tensor(name) for segment in own))
        return count * DTYPES[self.precision].itemsize

    def _check(self, unit: OpenVinoUnit, range_: SegmentRange) -> None:
        probe, expected = self.probes.at(range_), self.probes.behind(range_)
        for rows in unit.buckets:
            x = probe[torch.arange(rows) % PROBE_ROWS].contiguous()
            wanted = expected[torch.arange(rows) % PROBE_ROWS]
            got = torch.empty(wanted.shape)
            unit.run(x, got)
            self._compare(got, wanted)
        alone = torch.empty(expected[:1].shape)
        if unit.run_wide(probe[:1].contiguous(), alone):
            self._compare(alone, expected[:1])

    def _compare(self, got: Tensor, wanted: Tensor) -> None:
        error = relative_error(got, wanted)
        if not error <= TOLERANCE[self.precision]:
            message = "the compiled range differs from the backbone"
            raise ServerError(message, field="engine", value=f"{error:.2g}", fix="serve with --engine torch")
