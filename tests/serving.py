"""A real server on loopback for one test, small packages with their oracles, and what a refused call says."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from factories import fitted, head_package, lora_package, prepared, random_backbone, replaced_package
from lensmount import AsyncClient
from lensmount.aio_calls import Ending
from lensmount.errors import LensmountError
from lensmount.status import from_rpc_error
from lensmount.v1 import common_pb2, inference_pb2
from lensmount.v1.adapters_pb2_grpc import AdapterServiceStub
from lensmount.v1.inference_pb2_grpc import InferenceServiceStub
from lensmount.v1.sources_pb2_grpc import SourceServiceStub
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.pictures import Pixels
from lensmount_server.app import running
from lensmount_server.config import ServeConfig
from lensmount_server.engine.settings import EngineSettings
from videos import ANYWHERE
from zygotes import shared_zygote

if TYPE_CHECKING:
    from lensmount.v1.adapters_pb2_grpc import AdapterServiceAsyncStub
    from lensmount.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from lensmount.v1.sources_pb2_grpc import SourceServiceAsyncStub

StreamCall = grpc.aio.StreamStreamCall[inference_pb2.StreamInferRequest, inference_pb2.StreamInferResponse]

PATIENCE_S = 60.0
# Scores of the whole server against those of PEFT's own model; other versions differ by far more.
CLOSE = 1e-4


@dataclass(frozen=True, eq=False)
class Version:
    """A package folder, its adapter on the backbone, and the logits that its oracle gives for a picture."""

    folder: Path
    adapter: Adapter
    logits: Callable[[Pixels], Tensor]

    def scores(self, pixels: Pixels) -> tuple[float, ...]:
        """What the server must answer for uint8 RGB (height, width, 3)."""
        return tuple(torch.softmax(self.logits(pixels), dim=-1).tolist())


@dataclass(frozen=True, eq=False)
class Kit:
    """A small backbone with its weights as a file; packages for it: three versions of one task, and two more tasks."""

    backbone: Backbone
    weights: Path
    defect: tuple[Version, Version, Version]
    surface: Version
    grade: Version

    @property
    def versions(self) -> tuple[Version, ...]:
        """All of them."""
        return (*self.defect, self.surface, self.grade)


def build_kit(folder: Path) -> Kit:
    """Make the backbone and its packages in `folder`."""
    backbone = random_backbone()
    weights = folder / "test_vit.safetensors"
    save_file(backbone.model.state_dict(), weights)
    first, second, third = (_lora(folder / f"defect-{seed}", backbone, seed) for seed in (1, 2, 3))
    return Kit(
        backbone,
        weights,
        (first, second, third),
        _head(folder / "surface", backbone),
        _replaced(folder / "grade", backbone),
    )


@dataclass(frozen=True, eq=False)
class Served:
    """A server that runs, its client, and raw stubs on a channel of their own."""

    address: str
    data_dir: Path
    client: AsyncClient
    channel: grpc.aio.Channel
    inference: InferenceServiceAsyncStub
    adapters: AdapterServiceAsyncStub
    sources: SourceServiceAsyncStub


@asynccontextmanager
async def serving(kit: Kit, data_dir: Path, **more: Any) -> AsyncIterator[Served]:
    """A real server in this event loop, on a free port of loopback; `more` goes into its ServeConfig."""
    own = {"engine": EngineSettings("reference"), "addresses": ANYWHERE, **more}
    config = ServeConfig(data_dir, "127.0.0.1:0", kit.backbone.name, kit.weights, **own)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with (
        running(config, shared_zygote()) as (address, _),
        AsyncClient(address, timeout=PATIENCE_S) as client,
        grpc.aio.insecure_channel(address, options=options) as channel,
    ):
        stubs: tuple[Any, Any, Any] = (
            InferenceServiceStub(channel),
            AdapterServiceStub(channel),
            SourceServiceStub(channel),
        )
        yield Served(address, data_dir, client, channel, *stubs)


async def eventually(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; fail the test after a minute."""
    for _ in range(round(PATIENCE_S / 0.005)):
        if holds():
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"not within {PATIENCE_S:g} s: {what}")


async def refused(call: grpc.aio.Call) -> LensmountError:
    """The error of a raw call that must fail: one status of ours, without a trace in any part of it."""
    ending = Ending(call, "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(_finish(call), PATIENCE_S)
    status = await ending.status(caught.value)
    assert isinstance(status, grpc.aio.AioRpcError)
    return told(status)


async def _finish(call: grpc.aio.Call) -> None:
    if isinstance(call, AsyncIterable):
        async for _ in call:
            pass
    elif isinstance(call, Awaitable):
        await call


def told(error: grpc.aio.AioRpcError) -> LensmountError:
    """What a status says, after a look for traces of Python in all of it."""
    trailers = [value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata()]
    for part in ((error.details() or "").encode(), (error.debug_error_string() or "").encode(), *trailers):
        assert b"Traceback" not in part
        assert b'File "' not in part
        assert b".py" not in part
    known = from_rpc_error(error)
    assert known.code is error.code()
    return known


@dataclass(frozen=True)
class Kept:
    """What a data directory holds: uploads under way, packages, those that versions have, and the versions' hashes."""

    staging: frozenset[str]
    blobs: frozenset[str]
    needed: frozenset[str]
    rows: frozenset[str]

    @property
    def whole(self) -> bool:
        """Nothing is half there."""
        return not self.staging and self.blobs == self.needed


def kept(data_dir: Path) -> Kept:
    """Look into a data directory, past the server."""
    with closing(sqlite3.connect(data_dir / "registry.sqlite")) as database:
        query = "SELECT content_hash, blob FROM adapter_versions WHERE deleted_time_ns IS NULL"
        rows = database.execute(query).fetchall()
    names = {part: frozenset(path.name for path in (data_dir / part).iterdir()) for part in ("staging", "blobs")}
    needed, hashes = frozenset(row[1] for row in rows), frozenset(row[0] for row in rows)
    return Kept(names["staging"], names["blobs"], needed, hashes)


def stored(data_dir: Path, content_hash: str) -> Path:
    """Where a registered version's package lies."""
    (folder,) = (data_dir / "blobs").glob(f"{content_hash}*")
    return folder


def refs(*tasks: str) -> list[common_pb2.TaskRef]:
    """Tasks that follow their `live` alias."""
    return [common_pb2.TaskRef(task=task) for task in tasks]


def raw_frame(pixels: Pixels, pts_ns: int = 0) -> inference_pb2.RawFrame:
    """RGB pixels as a message."""
    height, width, _ = pixels.shape
    rgb = inference_pb2.PIXEL_FORMAT_RGB24
    return inference_pb2.RawFrame(width=width, height=height, pixel_format=rgb, data=pixels.tobytes(), pts_ns=pts_ns)


def scores_of(result: common_pb2.Result) -> tuple[float, ...]:
    """The scores of a result, in the task's own order."""
    return tuple(each.score for each in result.scores)


Item = inference_pb2.VideoPacket | inference_pb2.EncodedPicture | inference_pb2.RawFrame


def config(codec: inference_pb2.Codec.ValueType, *tasks: str, **options: Any) -> inference_pb2.StreamConfig:
    """A stream's config for tasks that follow their `live` alias."""
    return inference_pb2.StreamConfig(codec=codec, tasks=refs(*tasks), **options)


def message(item: inference_pb2.StreamConfig | Item) -> inference_pb2.StreamInferRequest:
    """A message of a pushed stream."""
    match item:
        case inference_pb2.StreamConfig():
            return inference_pb2.StreamInferRequest(config=item)
        case inference_pb2.VideoPacket():
            return inference_pb2.StreamInferRequest(packet=item)
        case inference_pb2.EncodedPicture():
            return inference_pb2.StreamInferRequest(encoded=item)
    return inference_pb2.StreamInferRequest(raw=item)


class Feed:
    """Requests that a test hands over one by one; None ends them."""

    def __init__(self, *requests: inference_pb2.StreamInferRequest | None) -> None:
        self._queue: asyncio.Queue[inference_pb2.StreamInferRequest | None] = asyncio.Queue()
        self.send(*requests)

    def send(self, *requests: inference_pb2.StreamInferRequest | None) -> None:
        """Hand over the next requests."""
        for request in requests:
            self._queue.put_nowait(request)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> inference_pb2.StreamInferRequest:
        request = await self._queue.get()
        if request is None:
            raise StopAsyncIteration
        return request


async def read(call: StreamCall) -> inference_pb2.StreamInferResponse:
    """The next answer of a stream."""
    answer = await asyncio.wait_for(call.read(), PATIENCE_S)
    assert isinstance(answer, inference_pb2.StreamInferResponse)
    return answer


def own_tasks() -> set[asyncio.Task[object]]:
    """All tasks but those with which gRPC waits for calls: it makes a new one for each call it takes."""
    waiting = ("_request_registered_call", "_request_call", "_server_main_loop")
    return {task for task in asyncio.all_tasks() if not any(name in repr(task) for name in waiting)}


async def messages(config: inference_pb2.StreamConfig, items: Iterable[Item]) -> AsyncIterator[Any]:
    """The messages of a whole stream."""
    yield message(config)
    for item in items:
        yield message(item)


@dataclass(frozen=True)
class Answered:
    """What came back from a stream that ended well."""

    started: inference_pb2.StreamStarted
    results: list[common_pb2.Result]
    summary: inference_pb2.StreamSummary


async def push(server: Served, config: inference_pb2.StreamConfig, items: Iterable[Item]) -> Answered:
    """Push a whole stream; its first answer must say that it started, its last is the account."""
    call = server.inference.StreamInfer(messages(config, items))
    async with asyncio.timeout(PATIENCE_S):
        answers = [answer async for answer in call]
    first, *results, last = answers
    assert first.WhichOneof("message") == "started"
    assert last.WhichOneof("message") == "summary"
    assert {result.WhichOneof("message") for result in results} <= {"result"}
    return Answered(first.started, [result.result for result in results], last.summary)


def _lora(folder: Path, backbone: Backbone, seed: int) -> Version:
    oracle = lora_package(folder, backbone, task="defect", segments=(-2, -3), seed=seed)
    return _version(folder / "package", backbone, lambda pixels: oracle(prepared(backbone, [pixels]))[0])


def _replaced(folder: Path, backbone: Backbone) -> Version:
    oracle = replaced_package(folder, backbone, task="grade", labels=4, seed=5)
    return _version(folder, backbone, lambda pixels: oracle(prepared(backbone, [pixels]))[0])


def _head(folder: Path, backbone: Backbone) -> Version:
    head = head_package(folder, backbone, task="surface", labels=5, seed=6, head=HeadSpec())

    def logits(pixels: Pixels) -> Tensor:
        row: Tensor = head(backbone.pool(backbone.forward_features(prepared(backbone, [pixels]))))[0]
        return row

    return _version(folder, backbone, logits)


def _version(folder: Path, backbone: Backbone, logits: Callable[[Pixels], Tensor]) -> Version:
    return Version(folder, fitted(folder, backbone), torch.inference_mode()(logits))
