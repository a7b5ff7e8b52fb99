"""The same requests to a real Triton and to this front: the same status codes, but for those that differ on purpose."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from factories import pictures
from kserving import raw_request, stub
from lensmount_server.kserve.shared_memory import FOLDER
from serving import Kit, Served
from triton_server import TritonServer, needs_triton

pytestmark = pytest.mark.triton

SHOT = pictures(1, seed=2)[0]
SIZE = SHOT.size
ROOM = 1000
FINAL = "triton_final_response"

# What the task `defect` looks like from here.
CONFIG = """
backend: "python"
max_batch_size: 256
input [
  { name: "picture" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] optional: true },
  { name: "encoded" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "pixel_values" data_type: TYPE_FP32 dims: [ 3, 160, 160 ] optional: true }
]
output [
  { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" },
  { name: "labels" data_type: TYPE_STRING dims: [ 1 ] }
]
version_policy { all { } }
instance_group [ { kind: KIND_MODEL count: 1 } ]
dynamic_batching { }
"""

MODEL = """
import numpy as np
import torch
from torch.utils.dlpack import to_dlpack
import triton_python_backend_utils as backend


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        rows = max(each.shape()[0] for each in request.inputs())
        own = {
            "scores": backend.Tensor.from_dlpack("scores", to_dlpack(torch.full((rows, 3), 0.5))),
            "labels": backend.Tensor("labels", np.array([[b"ok"]] * rows, dtype=object)),
        }
        return backend.InferenceResponse([own[name] for name in request.requested_output_names()])
"""


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton with a model of the same name, inputs and outputs, in the versions 1 and 2."""
    needs_triton()
    folder = tmp_path_factory.mktemp("rival")
    model = folder / "models" / "defect"
    for version in ("1", "2"):
        (model / version).mkdir(parents=True)
        (model / version / "model.py").write_text(MODEL)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "labels.txt").write_text("a\nb\nc\n")
    with TritonServer(folder / "models", folder, ("defect",)) as server:
        yield server


@pytest.fixture
def region() -> Iterator[str]:
    """A shared memory object with the picture and room behind it."""
    path = FOLDER / f"lensmount-test-{uuid.uuid4().hex}"
    path.write_bytes(SHOT.tobytes() + bytes(ROOM))
    yield path.name
    path.unlink()


Call = tuple[str, Any]
Make = Callable[[], Call]


def infer(change: Callable[[Any], object] = lambda _: None, **more: Any) -> Make:
    """A good request with a change."""

    def make() -> Call:
        request = raw_request([SHOT], **more)
        change(request)
        return "ModelInfer", request

    return make


def set_in(part: Callable[[Any], Any], **values: object) -> Callable[[Any], None]:
    """Sets parameters of a part of a request: whole numbers, strings, or another kind as (kind, value)."""

    def change(request: Any) -> None:
        parameters = part(request).parameters
        for name, value in values.items():
            kinds = {int: "int64_param", str: "string_param"}
            kind, own = value if isinstance(value, tuple) else (kinds[type(value)], value)
            setattr(parameters[name], kind, own)

    return change


def of_request(**values: object) -> Make:
    return infer(set_in(lambda request: request, **values))


def of_input(*, raw: bool = False, **values: object) -> Make:
    def change(request: Any) -> None:
        if not raw:
            request.ClearField("raw_input_contents")
        set_in(lambda own: own.inputs[0], **values)(request)

    return infer(change)


def memory_in(size: object = SIZE, offset: object = 0, region: str = "r", *, raw: bool = False) -> Make:
    names = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return of_input(raw=raw, **names)


def of_output(name: str = "scores", /, **values: object) -> Make:
    def change(request: Any) -> None:
        request.outputs.add(name=name)
        set_in(lambda own: own.outputs[0], **values)(request)

    return infer(change)


def memory_out(size: object = 12, offset: object = SIZE, region: str = "r", **more: object) -> Make:
    names = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return of_output(**names, **more)


def outputs(*names: str) -> Make:
    return infer(lambda request: [request.outputs.add(name=name) for name in names])


def shaped(*sides: int) -> Make:
    def change(request: Any) -> None:
        request.inputs[0].shape[:] = sides

    return infer(change)


def data(*contents: bytes) -> Make:
    def change(request: Any) -> None:
        request.raw_input_contents[:] = contents

    return infer(change)


def typed(*, raw: bool = False, **contents: Any) -> Make:
    def change(request: Any) -> None:
        if not raw:
            request.ClearField("raw_input_contents")
        for name, values in contents.items():
            getattr(request.inputs[0].contents, name).extend(values)

    return infer(change)


def named(name: str, datatype: str = "UINT8") -> Make:
    def change(request: Any) -> None:
        request.inputs[0].name, request.inputs[0].datatype = name, datatype

    return infer(change)


def another(name: str) -> Make:
    return infer(lambda request: request.inputs.add(name=name, datatype="UINT8", shape=SHOT[None].shape))


def ask(rpc: str, **fields: Any) -> Make:
    return lambda: (rpc, getattr(service_pb2, f"{rpc}Request")(**fields))


def about(name: str, version: str = "") -> dict[str, Make]:
    """Every call that asks for a model."""
    what = f"{name[:8]}:{version[:22]}"
    calls = ("ModelMetadata", "ModelConfig", "ModelReady", "ModelStatistics")
    return {f"{rpc} {what}": ask(rpc, name=name, version=version) for rpc in calls} | {
        f"ModelInfer {what}": infer(lambda request: setattr(request, "model_version", version), model=name)
    }


# Two that ours refuses are not here (test_bad_requests.py): of sides below nothing Triton's Python backend dies, of a
# classification of strings the whole Triton.
CASES: Mapping[str, Make] = {
    "good": infer(),
    "no input": infer(lambda request: request.ClearField("inputs")),
    "the input twice": infer(lambda request: request.inputs.append(request.inputs[0])),
    "another input without data": another("pixel_values"),
    "an unknown input": named("image"),
    "an input without a name": named(""),
    "another type": named("picture", "FP32"),
    "no type": named("picture", ""),
    "no shape": shaped(),
    "no batch": shaped(*SHOT.shape),
    "four channels": shaped(1, 90, 90, 4),
    "no pictures": shaped(0, *SHOT.shape),
    "any side": shaped(-1, -1, -1, 3),
    "257 pictures": shaped(257, 1, 1, 3),
    "2**62 pictures": shaped(2**62, 2**62, 2**62, 3),
    "2**62 wide": shaped(1, 1, 2**62, 3),
    "more than a message": shaped(256, 1000, 1000, 3),
    "a byte short": data(bytes(SIZE - 1)),
    "a byte too many": data(bytes(SIZE + 1)),
    "no bytes": data(b""),
    "no data": data(),
    "surplus data": data(bytes(SIZE), b""),
    "data in two ways": typed(raw=True, uint_contents=[1]),
    "too few numbers": typed(uint_contents=[1]),
    "numbers of another type": typed(int_contents=[1] * SIZE),
    "numbers of two types": typed(uint_contents=[1] * SIZE, fp32_contents=[1.0]),
    "numbers beyond a byte": typed(uint_contents=[256] * SIZE),
    "an unknown output": outputs("probabilities"),
    "an output twice": outputs("scores", "scores"),
    "one class": of_output(classification=1),
    "no classes": of_output(classification=0),
    "fewer classes than none": of_output(classification=-1),
    "classes in words": of_output(classification="1"),
    "more classes than there are": of_output(classification=100),
    "classes in memory": memory_out(classification=1),
    "priority 0": of_request(priority=0),
    "priority 1": of_request(priority=1),
    "priority -1": of_request(priority=-1),
    "priority 22": of_request(priority=22),
    "a priority in words": of_request(priority="high"),
    "timeout 0": of_request(timeout=0),
    "a timeout": of_request(timeout=60_000_000),
    "a timeout without a sign": of_request(timeout=("uint64_param", 60_000_000)),
    "a timeout below nothing": of_request(timeout=-1),
    "a timeout in words": of_request(timeout="soon"),
    "a timeout of years": of_request(timeout=2**62),
    "in memory": memory_in(),
    "in memory, a byte short": memory_in(SIZE - 1),
    "in memory, nothing": memory_in(0),
    "in memory, below nothing": memory_in(-1),
    "in memory, before it": memory_in(SIZE, -1),
    "in memory, beyond its end": memory_in(SIZE, ROOM + 1),
    "in memory, far beyond": memory_in(SIZE, 2**63 - 1),
    "in memory, all there is": memory_in(2**63 - 1, 2**63 - 1),
    "in memory, more than a message": memory_in(40 << 20),
    "in memory, of another name": memory_in(region="q"),
    "in memory, size in words": memory_in("1"),
    "in memory and in the message": memory_in(raw=True),
    "in memory without a size": of_input(shared_memory_region="r"),
    "an input's size without a region": of_input(raw=True, shared_memory_byte_size=SIZE),
    "an input's offset without a region": of_input(raw=True, shared_memory_offset=0),
    "out in memory": memory_out(),
    "out in memory, too small": memory_out(11),
    "out in memory, nothing": memory_out(0),
    "out in memory, before it": memory_out(12, -1),
    "out in memory, beyond its end": memory_out(12, SIZE + ROOM),
    "out in memory, far beyond": memory_out(12, 2**63 - 1),
    "out in memory, of another name": memory_out(region="q"),
    "out in memory without a size": of_output(shared_memory_region="r"),
    "an output's size without a region": of_output(shared_memory_byte_size=12),
    "an output's offset without a region": of_output(shared_memory_offset=0),
    **about("defect"),
    **about("defect", "1"),
    **about("defect", "01"),
    **about("defect", "0"),
    **about("defect", "77"),
    **about("defect", "99999999999"),
    **about("defect", str(2**63 - 1)),
    **about("defect", str(2**63)),
    **about("defect", "-1"),
    **about("defect", "latest"),
    **about("defect", " 1"),
    **about("weather"),
    **about("defect@"),
    **about("defect/image"),
    **about(""),
    **about("x" * 200),
    "status of a region": ask("SystemSharedMemoryStatus", name="r"),
    "status of no region": ask("SystemSharedMemoryStatus", name="q"),
    "unregister no region": ask("SystemSharedMemoryUnregister", name="q"),
    "the name again": ask("SystemSharedMemoryRegister", name="r", key="q", byte_size=1),
    "an object that is not there": ask("SystemSharedMemoryRegister", name="q", key="lensmount-not-there", byte_size=1),
    "CUDA status": ask("CudaSharedMemoryStatus"),
    "CUDA status of a region": ask("CudaSharedMemoryStatus", name="q"),
    "CUDA unregister": ask("CudaSharedMemoryUnregister"),
    "CUDA register": ask("CudaSharedMemoryRegister", name="q"),
    "index": ask("RepositoryIndex"),
    "index of a repository": ask("RepositoryIndex", repository_name="q"),
    "load of no model": ask("RepositoryModelLoad", model_name="weather"),
    "unload of no model": ask("RepositoryModelUnload", model_name="weather"),
}

# Triton's code and ours. docs/kserve.md, "Different on purpose".
OK, INVALID, LARGE = "OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
DIFFERENT: Mapping[str, tuple[str, str]] = {
    "no pictures": (OK, INVALID),
    "2**62 wide": (INVALID, LARGE),
    "more than a message": (INVALID, LARGE),
    "surplus data": (OK, INVALID),
    "numbers beyond a byte": (OK, INVALID),
    "an output twice": (OK, INVALID),
    "priority 22": (OK, INVALID),
    "a timeout without a sign": (INVALID, OK),
    "a timeout below nothing": (OK, INVALID),
    "a timeout of years": (OK, INVALID),
    "in memory and in the message": (OK, INVALID),
    **dict.fromkeys(about("defect", " 1"), (OK, INVALID)),
    "an object that is not there": ("INTERNAL", INVALID),
    "CUDA register": (INVALID, "UNIMPLEMENTED"),
    "load of no model": ("INTERNAL", "NOT_FOUND"),
    "unload of no model": (OK, "NOT_FOUND"),
}


async def code_of(calls: Any, make: Make) -> str:
    rpc, request = make()
    try:
        await getattr(calls, rpc)(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def codes_of(calls: Any, key: str) -> dict[str, str]:
    """The code of every case, in order, with the region `r` there."""
    request = service_pb2.SystemSharedMemoryRegisterRequest(name="r", key=key, byte_size=SIZE + ROOM)
    await calls.SystemSharedMemoryRegister(request, timeout=60)
    found = {name: await code_of(calls, make) for name, make in CASES.items()}
    await calls.SystemSharedMemoryUnregister(service_pb2.SystemSharedMemoryUnregisterRequest(), timeout=60)
    return found


@pytest.fixture
async def ours(live: Served, kit: Kit) -> Any:
    await live.client.register(kit.defect[1].folder)
    return stub(live)


async def test_the_codes_are_tritons(rival: TritonServer, ours: Any, region: str) -> None:
    theirs = service_pb2_grpc.GRPCInferenceServiceStub
    async with grpc.aio.insecure_channel(rival.url) as channel:
        wanted = await codes_of(theirs(channel), region)
    found = await codes_of(ours, region)
    assert {name: (wanted[name], found[name]) for name in CASES if wanted[name] != found[name]} == DIFFERENT
    assert {"OK", "NOT_FOUND", "INVALID_ARGUMENT", "INTERNAL", "ALREADY_EXISTS", "UNIMPLEMENTED"} == set(
        wanted.values()
    )


async def test_responses_on_a_stream_and_alone_have_what_tritons_have(rival: TritonServer, ours: Any) -> None:
    """The order, the ids, and which parameter says that a response is the last one."""

    async def told(calls: Any) -> tuple[list[tuple[str, bool, bool]], bool]:
        requests = [infer(id=str(number), model=model)()[1] for number, model in enumerate(("defect", "weather") * 4)]
        stream = calls.ModelStreamInfer(iter(requests), timeout=60)
        answers = [
            (each.infer_response.id, bool(each.error_message), each.infer_response.parameters[FINAL].bool_param)
            async for each in stream
        ]
        return answers, FINAL in (await calls.ModelInfer(requests[0], timeout=60)).parameters

    async with grpc.aio.insecure_channel(rival.url) as channel:
        theirs, alone = await told(service_pb2_grpc.GRPCInferenceServiceStub(channel))
    found = await told(ours)
    assert [(number, failed, final or failed) for number, failed, final in theirs] == found[0]
    assert (alone, found[1]) == (False, False)
    assert [number for number, _, _ in theirs] == [str(number) for number in range(8)]
