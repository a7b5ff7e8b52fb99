"""The stock tritonclient against a server of ours, and requests as they stand on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from lensmount.v1 import common_pb2, inference_pb2
from lensmount_adapters.pictures import Pixels
from serving import Served, raw_frame, scores_of


@asynccontextmanager
async def triton_of(served: Served) -> AsyncIterator[Any]:
    """The asynchronous client of tritonclient."""
    client = triton_aio.InferenceServerClient(served.address)
    try:
        yield client
    finally:
        await client.close()


def stub(served: Served) -> Any:
    """A raw stub, for what tritonclient does not let through."""
    return service_pb2_grpc.GRPCInferenceServiceStub(served.channel)


def tensor(name: str, values: NDArray[Any]) -> Any:
    """An input of tritonclient with its data in the message."""
    datatype = {"picture": "UINT8", "encoded": "BYTES", "pixel_values": "FP32"}[name]
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def shots_of(*shots: Pixels) -> list[Any]:
    """The input `picture`."""
    return [tensor("picture", np.stack(shots))]


def raw_request(shots: Sequence[Pixels], model: str = "defect", **more: Any) -> Any:
    """A ModelInferRequest for pictures of one size."""
    values = np.stack(shots)
    kind = service_pb2.ModelInferRequest.InferInputTensor
    inputs = [kind(name="picture", datatype="UINT8", shape=values.shape)]
    return service_pb2.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=[values.tobytes()], **more)


async def own_scores(served: Served, shot: Pixels, task: str = "defect", version: int = 0) -> NDArray[np.float32]:
    """What our own RPC answers, as float32."""
    ref = common_pb2.TaskRef(task=task, version=version)
    request = inference_pb2.InferRequest(tasks=[ref], raw=raw_frame(shot))
    (result,) = (await served.inference.Infer(request)).results
    return np.array(scores_of(result), np.float32)


def parameter(result: Any, name: str) -> Any:
    """A parameter of a response."""
    given = result.get_response().parameters[name]
    return getattr(given, given.WhichOneof("parameter_choice"))


async def blocking(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of the blocking client, beside the event loop that the server runs on."""
    return await asyncio.to_thread(call, *args, **kwargs)


async def triton_refused(call: Awaitable[Any], code: str) -> str:
    """The sentence of a call that must fail with that code; it says what to do."""
    with pytest.raises(InferenceServerException) as caught:
        await call
    assert caught.value.status() == f"StatusCode.{code}", caught.value
    sentence = str(caught.value.message())
    assert " Fix: " in sentence
    assert "Traceback" not in sentence
    return sentence
