"""The Triton that the tests use is a real one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2

from triton_server import SHARED, TritonServer, needs_triton

pytestmark = pytest.mark.triton

CONFIG = """
backend: "python"
max_batch_size: 0
input [ { name: "pictures" data_type: TYPE_UINT8 dims: [ -1, -1 ] } ]
output [ { name: "back" data_type: TYPE_UINT8 dims: [ -1, -1 ] }, { name: "sums" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { kind: KIND_MODEL count: 1 } ]
"""

MODEL = """
from torch.utils.dlpack import from_dlpack, to_dlpack
import triton_python_backend_utils as backend


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        rows = from_dlpack(backend.get_input_tensor_by_name(request, "pictures").to_dlpack())
        back = backend.Tensor.from_dlpack("back", to_dlpack(rows.flip(0).contiguous()))
        sums = backend.Tensor.from_dlpack("sums", to_dlpack(rows.float().sum(1)))
        return backend.InferenceResponse([back, sums])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    needs_triton()
    folder = tmp_path_factory.mktemp("triton")
    (folder / "models" / "echo" / "1").mkdir(parents=True)
    (folder / "models" / "echo" / "config.pbtxt").write_text(CONFIG)
    (folder / "models" / "echo" / "1" / "model.py").write_text(MODEL)
    with TritonServer(folder / "models", folder, ("echo",)) as started:
        yield started


def call(server: TritonServer, data: bytes, timeout: float = 20) -> list[bytes]:
    request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[data])
    request.inputs.add(name="pictures", datatype="UINT8", shape=[2, len(data) // 2])
    response = server.stub.ModelInfer(request, timeout=timeout)
    names = [output.name for output in response.outputs]
    raw = dict(zip(names, response.raw_output_contents, strict=True))
    return [raw["back"], raw["sums"]]


def test_tensors_cross_whole_beside_numpy_2(server: TritonServer) -> None:
    back, sums = call(server, bytes([1, 2, 3, 200, 5, 6]))
    assert back == bytes([200, 5, 6, 1, 2, 3])
    assert sums == b"\x00\x00\xc0\x40\x00\x00\x53\x43"  # 6 and 211


def test_it_can_be_frozen_killed_and_started_again(server: TritonServer) -> None:
    server.freeze()
    with pytest.raises(grpc.RpcError):
        call(server, bytes(4), timeout=0.5)
    server.thaw()
    assert call(server, bytes(4))[0] == bytes(4)
    server.kill()
    with pytest.raises(grpc.RpcError):
        call(server, bytes(4), timeout=0.5)
    server.start()
    assert call(server, bytes(4))[0] == bytes(4)


def gone(stub: int) -> bool:
    """Whether a process has ended; one that nobody has waited for is there still, and has no command any more."""
    try:
        return not Path(f"/proc/{stub}/cmdline").read_bytes()
    except OSError:
        return True


@pytest.mark.parametrize("alone", [True, False], ids=["it died before", "killed"])
def test_nothing_is_left_of_one_that_was_killed(server: TritonServer, alone: bool) -> None:
    left = server.stubs
    assert len(left) == 1
    assert all((SHARED / region).exists() for region in left.values())
    if alone:
        server.kill_alone()
    server.kill()
    try:
        assert not any((SHARED / region).exists() for region in left.values())
        for _ in range(500):
            if all(map(gone, left)):
                break
            time.sleep(0.02)
        assert all(map(gone, left))
    finally:
        server.start()
