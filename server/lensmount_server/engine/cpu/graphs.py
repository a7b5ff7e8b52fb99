"""The backbone as OpenVINO's graph: traced once, cut into ranges, other weights put in, LoRA's products added."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.utils import replace_node
from torch import Tensor, nn

from lensmount.errors import ServerError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.probes import as_is
from lensmount_server.engine.ranges import SegmentRange

PREFIX = "self.model."


def traced(backbone: Backbone, preprocessing: Preprocessing, pictures: Tensor) -> Any:
    """The whole backbone from uint8 pictures on, with a result behind every segment; the number of rows is free."""
    return _traced(_Borders(backbone, preprocessing), pictures)


def cut(whole: Any, range_: SegmentRange) -> Any:
    """A graph of its own, from the range's first input to its last output."""
    graph = whole.clone()
    borders = [result.input_value(0) for result in graph.get_results()]
    end = ops.result(borders[range_.stop - 1])
    if range_.start == 0:
        return ov.Model([end], graph.get_parameters(), "range")
    border = borders[range_.start - 1]
    entry = ops.parameter(border.get_partial_shape(), border.get_element_type())
    for target in border.get_target_inputs():
        target.replace_source_output(entry.output(0))
    return ov.Model([end], [entry], "range")


def put(graph: Any, tensors: Mapping[str, Tensor]) -> None:
    """Exchange the graph's constants of these names."""
    constants = _constants(graph)
    for name, tensor in tensors.items():
        constant = constants.get(PREFIX + name)
        if constant is None or tuple(constant.shape) != tuple(tensor.shape):
            raise ServerError("a tensor has no place in the compiled graph", field="engine", value=name)
        replace_node(constant, ops.constant(tensor.numpy(), dtype=constant.get_element_type()))


def with_lora(graph: Any, ranks: Mapping[str, int]) -> Any | None:
    """The graph with B·A·x·scale added to the product of every module in `ranks`; None where one has no such product.

    A (rank, in), B (out, rank) and the scale (1,) of each module, in the order of `ranks`, are inputs behind
    the graph's own: the values of an adapter are not in it.
    """
    constants = _constants(graph)
    inputs = list(graph.get_parameters())
    for name, rank in ranks.items():
        product = _product(constants.get(f"{PREFIX}{name}.weight"))
        if product is None:
            return None
        inputs += _add_lora(product, rank)
    return ov.Model(graph.get_results(), inputs, "lora")


def _product(weight: Any | None) -> Any | None:
    """The one multiplication x·Wᵀ that reads a weight."""
    targets = list(weight.output(0).get_target_inputs()) if weight is not None else []
    if len(targets) != 1 or targets[0].get_index() != 1:
        return None
    node = targets[0].get_node()
    if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
        return None
    return node


def _add_lora(product: Any, rank: int) -> list[Any]:
    x, weight = product.input_value(0), product.input_value(1)
    out_features, in_features = weight.get_shape()
    a, b, scale = (ops.parameter(shape, ov.Type.f32) for shape in ([rank, in_features], [out_features, rank], [1]))
    targets = list(product.output(0).get_target_inputs())
    low = ops.multiply(ops.matmul(x, a, transpose_a=False, transpose_b=True), scale)
    edited = ops.add(product.output(0), ops.matmul(low, b, transpose_a=False, transpose_b=True))
    for target in targets:
        target.replace_source_output(edited.output(0))
    return [a, b, scale]


def _constants(graph: Any) -> dict[str, Any]:
    return {op.get_friendly_name(): op for op in graph.get_ops() if op.get_type_name() == "Constant"}


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
