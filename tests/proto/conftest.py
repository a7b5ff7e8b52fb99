"""A wire double (a real gRPC server that plays back what a test scripts) and both clients against it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import av
import grpc
import numpy as np
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_status import rpc_status

import lensmount
from blocking import Blocking, Loop
from lensmount.errors import LensmountError
from lensmount.status import to_status
from lensmount.v1 import adapters_pb2, common_pb2, inference_pb2, sources_pb2

T = TypeVar("T")
Answer = Callable[[Any, grpc.ServicerContext], Any]

FILES = (common_pb2, inference_pb2, adapters_pb2, sources_pb2)
PATIENCE_S = 60.0


class WireDouble:
    """A server on a free port: `asked` holds the requests by method, `answers` what each method does.

    An answer takes (request, context), or (iterator of requests, context) where requests
    stream; it returns a message, or yields some where answers stream.
    """

    def __init__(self) -> None:
        self.asked: dict[str, list[Any]] = defaultdict(list)
        self.answers: dict[str, Answer] = {}
        self.time_limits: dict[str, float | None] = {}
        self.cancelled = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 8 << 20)])
        for file in FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(method) for method in service.methods}
                handler = grpc.method_handlers_generic_handler(service.full_name, handlers)
                self._server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def fail(self, method: str, error: LensmountError) -> None:
        """Answer a method with an error, as the real server sends it."""
        self.answers[method] = lambda _, context: context.abort_with_status(rpc_status.to_status(to_status(error)))

    def stop(self) -> None:
        self._server.stop(None).wait(PATIENCE_S)

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        asks, answers = method.client_streaming, method.server_streaming
        kind = f"{'stream' if asks else 'unary'}_{'stream' if answers else 'unary'}_rpc_method_handler"
        read = message_factory.GetMessageClass(method.input_type).FromString
        write = message_factory.GetMessageClass(method.output_type).SerializeToString
        run = self._yields(method) if answers else self._returns(method)
        return cast("grpc.RpcMethodHandler[Any, Any]", getattr(grpc, kind)(run, read, write))

    def _returns(self, method: MethodDescriptor) -> Answer:
        return lambda request, context: self._answer(method, request, context)

    def _yields(self, method: MethodDescriptor) -> Answer:
        def run(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.add_callback(lambda: None if context.code() else self.cancelled.set())  # type: ignore[attr-defined]
            yield from self._answer(method, request, context)

        return run

    def _answer(self, method: MethodDescriptor, request: Any, context: grpc.ServicerContext) -> Any:
        self.time_limits[method.name] = context.time_remaining()
        asked = self.asked[method.name]
        if method.client_streaming:
            request = _recorded(request, asked)
        else:
            asked.append(request)
        if method.name not in self.answers:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not scripted")
        return self.answers[method.name](request, context)


def _recorded(requests: Iterator[T], asked: list[T]) -> Iterator[T]:
    for request in requests:
        asked.append(request)
        yield request


@pytest.fixture
def double() -> Iterator[WireDouble]:
    server = WireDouble()
    yield server
    server.stop()


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., lensmount.Client]]:
    """Makes clients of either kind; the asyncio one in blocking dress."""
    made: list[lensmount.Client] = []
    loop = Loop() if request.param == "asyncio" else None

    def make(*args: Any, **kwargs: Any) -> lensmount.Client:
        asynchronous = loop and Blocking(loop, lensmount.AsyncClient(*args, **kwargs))
        made.append(cast("lensmount.Client", asynchronous) if asynchronous else lensmount.Client(*args, **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.close()
    if loop:
        loop.close()


@pytest.fixture
def client(double: WireDouble, connect: Callable[..., lensmount.Client]) -> lensmount.Client:
    return connect(double.address)


def result_message(task: str = "defect", frame_index: int = 0, **more: Any) -> common_pb2.Result:
    """A result that says "scratch" with 0.75."""
    return common_pb2.Result(
        frame_index=frame_index,
        adapter=common_pb2.AdapterVersion(task=task, version=2, content_hash="ab" * 32),
        scores=[common_pb2.LabelScore(label="good", score=0.25), common_pb2.LabelScore(label="scratch", score=0.75)],
        labels=["scratch"],
        **more,
    )


@pytest.fixture(name="result_message")
def result_message_fixture() -> Callable[..., common_pb2.Result]:
    return result_message


@pytest.fixture
def answer_stream() -> Answer:
    """Answers a pushed stream in full: started, one result a unit and task, the summary."""

    def answer(requests: Iterator[Any], _: grpc.ServicerContext) -> Iterator[inference_pb2.StreamInferResponse]:
        config = next(requests).config
        adapters = [common_pb2.AdapterVersion(task=ref.task, version=2) for ref in config.tasks]
        started = inference_pb2.StreamStarted(name=config.name or "stream-1", adapters=adapters)
        yield inference_pb2.StreamInferResponse(started=started)
        count = 0
        for _unit in requests:
            for ref in config.tasks:
                yield inference_pb2.StreamInferResponse(result=result_message(ref.task, count, source=started.name))
            count += 1
        summary = inference_pb2.StreamSummary(received=count, decoded=count, answered=count)
        yield inference_pb2.StreamInferResponse(summary=summary)

    return answer


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """Encodes small videos: `make_video("clip.mp4", codec="libx264", frames=24, b_frames=2)`."""

    def make(name: str, codec: str = "libx264", frames: int = 24, b_frames: int = 2, headers: bool = True) -> Path:
        x265 = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        options = {"bf": str(b_frames), "g": "12", **x265} if codec.startswith("libx26") else {}
        with av.open(str(tmp_path / name), "w") as container:
            stream = cast("av.VideoStream", container.add_stream(codec, rate=10, options=options))
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            if not headers:
                stream.codec_context.flags |= av.codec.context.Flags.global_header
            for index in range(frames):
                pixels = np.full((64, 96, 3), index * 10, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode())
        return tmp_path / name

    return make
