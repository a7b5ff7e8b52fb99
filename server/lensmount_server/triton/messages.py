"""Requests to the hosted model as KServe's messages, and what of its responses counts."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2

from lensmount_server.triton.wire import HASHES, LOGITS, MODEL, PACKAGE, PICTURES, REPLY, REQUEST, Op, Request

Shape = tuple[int, ...]


def ask(request: Request) -> Any:
    """The message of a request, without the tensors beside it."""
    message = service_pb2.ModelInferRequest(model_name=MODEL)
    data = request.model_dump_json().encode()
    _add(message, REQUEST, (len(data),)).append(data)
    for name in (REPLY, LOGITS, HASHES) if request.op is Op.RUN else (REPLY,):
        message.outputs.add(name=name)
    return message


def with_pictures(message: Any, data: bytes, shape: Shape) -> Any:
    """The message with pictures (uint8) in it."""
    _add(message, PICTURES, shape).append(data)
    return message


def with_shared_pictures(message: Any, region: str, size_bytes: int, shape: Shape) -> Any:
    """The message with pictures that lie in a registered region of shared memory."""
    tensor = message.inputs.add(name=PICTURES, datatype="UINT8", shape=shape)
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size_bytes
    return message


def with_package(message: Any, archive: bytes) -> Any:
    """The message with a package's archive in it."""
    _add(message, PACKAGE, (len(archive),)).append(archive)
    return message


def outputs_of(response: Any) -> dict[str, bytes]:
    """The raw tensors of a response by name; what has none of its bytes is left out."""
    names = [tensor.name for tensor in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=False))


def _add(message: Any, name: str, shape: Shape) -> Any:
    message.inputs.add(name=name, datatype="UINT8", shape=shape)
    return message.raw_input_contents
