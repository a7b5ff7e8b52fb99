"""Ranges compiled by OpenVINO.

The backbone is traced once; every range is cut out of that one graph, and an adapter's range
is the same cut with other constants. So nothing is traced while the server answers, and a
merged tail is compiled in a tenth of a second for each batch size, without Python.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.utils import replace_node
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.units import NO_TENSORS, Options
from lensmount_server.engine.lowered import DTYPES
from lensmount_server.engine.probes import PROBE_ROWS, Probes, as_is, relative_error
from lensmount_server.engine.ranges import SegmentRange

HINTS = {"fp32": "f32", "bf16": "bf16"}
# Root mean square of the difference to torch's fp32, relative to the output's: what rounding can explain.
TOLERANCE = {"fp32": 1e-3, "bf16": 1e-1}
PREFIX = "self.model."
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
        probe, expected = self.probes.at(range_), self.probes.behind(range_)
        try:
            graph = self._cut(range_)
            _put(graph, tensors)
            unit = OpenVinoUnit(self._forms(graph, tuple(probe.shape[1:]), options), tuple(expected.shape[1:]))
            unit.warm_up(probe)
            if not tensors:
                self._check(unit, probe, expected)
        except FAILURES as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            message, fix = f"OpenVINO can not compile it: {reason}", "serve with --engine torch"
            raise ServerError(message, field="engine", value=self._backbone.name, fix=fix) from error
        unit.size_bytes = self._weigh(range_) * (len(options.buckets) + options.wide)
        return unit

    def _cut(self, range_: SegmentRange) -> Any:
        """A graph of its own, from the range's first input to its last output."""
        graph = self._graph(range_.preprocessing).clone()
        borders = [result.input_value(0) for result in graph.get_results()]
        end = ops.result(borders[range_.stop - 1])
        if range_.start == 0:
            return ov.Model([end], graph.get_parameters(), "range")
        border = borders[range_.start - 1]
        entry = ops.parameter(border.get_partial_shape(), border.get_element_type())
        for target in border.get_target_inputs():
            target.replace_source_output(entry.output(0))
        return ov.Model([end], [entry], "range")

    def _graph(self, preprocessing: Preprocessing) -> Any:
        with self._tracing:
            if preprocessing not in self._graphs:
                range_ = SegmentRange(0, len(self._backbone.segments), preprocessing)
                self._graphs[preprocessing] = _traced(_Borders(self._backbone, preprocessing), self.probes.at(range_))
            return self._graphs[preprocessing]

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
        fixed.reshape(list(shape))
        # Pinned threads of two servers would sit on the same cores.
        settings = {"INFERENCE_PRECISION_HINT": HINTS[self.precision], "ENABLE_CPU_PINNING": False, **threads}
        return self._core.compile_model(fixed, "CPU", settings)

    def _weigh(self, range_: SegmentRange) -> int:
        state: dict[str, Tensor] = self._backbone.model.state_dict()
        own = self._backbone.segments[range_.start : range_.stop]
        count = sum(t.numel() for name, t in state.items() if any(segment.owns_tensor(name) for segment in own))
        return count * DTYPES[self.precision].itemsize

    def _check(self, unit: OpenVinoUnit, probe: Tensor, expected: Tensor) -> None:
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


class OpenVinoUnit:
    """A range in some fixed batch sizes, each with a request for every lane."""

    def __init__(self, forms: Mapping[tuple[int, bool], Any], row_shape: tuple[int, ...]) -> None:
        self.buckets = tuple(sorted(rows for rows, wide in forms if not wide))
        self.row_shape = row_shape
        self.size_bytes = 0
        self._idle = {key: _requests(compiled) for key, compiled in forms.items()}

    def run(self, x: Tensor, out: Tensor) -> None:
        """Run `x`, as many rows as a bucket, into `out`."""
        self._infer((len(x), False), x, out)

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        """Run a single row on all cores; False where that form was not compiled."""
        if (1, True) not in self._idle:
            return False
        self._infer((1, True), x, out)
        return True

    def warm_up(self, probe: Tensor) -> None:
        """Run every form on every lane at once: a first run allocates, and takes several times as long."""
        for (rows, _), idle in self._idle.items():
            x = probe[torch.arange(rows) % len(probe)].contiguous()
            outs = [torch.empty((rows, *self.row_shape)) for _ in range(idle.qsize())]
            requests = [idle.get() for _ in outs]
            for request, out in zip(requests, outs, strict=True):
                request.set_output_tensor(ov.Tensor(out.numpy(), shared_memory=True))
                request.start_async({0: ov.Tensor(x.numpy(), shared_memory=True)})
            for request in requests:
                request.wait()
                idle.put(request)

    def _infer(self, form: tuple[int, bool], x: Tensor, out: Tensor) -> None:
        with _one_of(self._idle[form]) as request:
            request.set_output_tensor(ov.Tensor(out.numpy(), shared_memory=True))
            request.infer({0: ov.Tensor(x.numpy(), shared_memory=True)})


class _Borders(nn.Module):
    """The whole backbone; gives what lies behind every segment."""

    def __init__(self, backbone: Backbone, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = backbone.model
        self._hidden = (backbone.segments, preprocessing)  # closures are not for the module tree

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        segments, preprocessing = self._hidden
        x = preprocessing.normalize(pictures)
        borders = []
        for segment in segments:
            x = segment(x)
            borders.append(x)
        return tuple(borders)


def _traced(module: nn.Module, example: Tensor) -> Any:
    """The module as OpenVINO's graph, its first dimension free."""
    frontend = FrontEndManager().load_by_framework("pytorch")
    with as_is(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of Python in the models that does not depend on values
        traced = torch.jit.trace(module, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        loaded = frontend.load(decoder)
        graph = frontend.convert(loaded)
    graph.reshape([-1, *example.shape[1:]])
    return graph


def _put(graph: Any, tensors: Mapping[str, Tensor]) -> None:
    """Exchange the graph's constants of these names."""
    constants = {op.get_friendly_name(): op for op in graph.get_ops() if op.get_type_name() == "Constant"}
    for name, tensor in tensors.items():
        constant = constants.get(PREFIX + name)
        if constant is None or tuple(constant.shape) != tuple(tensor.shape):
            raise ServerError("a tensor has no place in the compiled graph", field="engine", value=name)
        replace_node(constant, ops.constant(tensor.numpy(), dtype=constant.get_element_type()))


def _requests(compiled: Any) -> queue.SimpleQueue[Any]:
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(max(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"), 1)):
        idle.put(compiled.create_infer_request())
    return idle


@contextlib.contextmanager
def _one_of(idle: queue.SimpleQueue[Any]) -> Iterator[Any]:
    request = idle.get()
    try:
        yield request
    finally:
        idle.put(request)
