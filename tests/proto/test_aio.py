"""What only asyncio has: cancellation of two kinds, asynchronous frames, loops that go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from lensmount import AsyncClient, InvalidInputError, UnavailableError
from lensmount.v1 import inference_pb2

if TYPE_CHECKING:
    from proto.conftest import Answer, WireDouble

PATIENCE_S = 60.0
PIXELS = np.zeros((4, 6, 3), np.uint8)


def hang(_: Any, context: grpc.ServicerContext) -> Any:
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(PATIENCE_S)


def hang_streaming(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    hang(requests, context)
    yield from ()


async def camera(count: int = 1_000_000) -> AsyncIterator[Any]:
    for _ in range(count):
        await asyncio.sleep(0)
        yield PIXELS


async def cancelled(double: WireDouble) -> bool:
    return await asyncio.to_thread(double.cancelled.wait, PATIENCE_S)


async def test_frames_may_come_asynchronously(double: WireDouble, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    async with AsyncClient(double.address) as client:
        stream = client.stream(camera(5), ["defect"])
        assert [result.frame_index async for result in stream] == [0, 1, 2, 3, 4]
        assert stream.summary
        assert stream.summary.received == 5


async def test_an_error_of_asynchronous_frames_comes_after_the_answers(
    double: WireDouble, answer_stream: Answer
) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield PIXELS
        raise OSError("camera unplugged")

    double.answers["StreamInfer"] = answer_stream
    async with AsyncClient(double.address) as client, client.stream(broken(), ["defect"]) as stream:
        assert await anext(stream)
        with pytest.raises(OSError, match="camera unplugged"):
            await anext(stream)


async def test_no_asynchronous_frame_at_all(double: WireDouble) -> None:
    async with AsyncClient(double.address) as client:
        with pytest.raises(InvalidInputError, match="no frame came"):
            await anext(client.stream(camera(0), ["defect"]))


async def test_leaving_the_loop_cancels_the_call(double: WireDouble, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    async with AsyncClient(double.address) as client:
        stream = client.stream(camera(), ["defect"])
        async for _ in stream:
            break
        assert await cancelled(double)
        assert await anext(stream, None) is None


async def test_leaving_a_watch_cancels_the_call(double: WireDouble) -> None:
    double.answers["WatchResults"] = hang_streaming
    async with AsyncClient(double.address) as client:
        waiting = asyncio.ensure_future(anext(client.watch()))
        await asyncio.to_thread(lambda: _wait(lambda: double.asked["WatchResults"]))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await cancelled(double)


@pytest.mark.parametrize("method", ["info", "stream", "watch"])
async def test_a_task_that_is_cancelled_is_cancelled(method: str, double: WireDouble) -> None:
    double.answers |= {"GetServerInfo": hang, "StreamInfer": hang_streaming, "WatchResults": hang_streaming}
    async with AsyncClient(double.address) as client:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "info": client.info,
            "stream": lambda: anext(client.stream(camera(), ["defect"])),
            "watch": lambda: anext(client.watch()),
        }
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await calls[method]()


@pytest.mark.parametrize("method", ["info", "stream", "watch"])
async def test_a_call_that_the_server_cancels_is_an_error(method: str, double: WireDouble) -> None:
    def end(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.CANCELLED, "going down")

    double.answers |= dict.fromkeys(("GetServerInfo", "StreamInfer", "WatchResults"), end)
    async with AsyncClient(double.address) as client:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "info": client.info,
            "stream": lambda: anext(client.stream(camera(1), ["defect"])),
            "watch": lambda: anext(client.watch()),
        }
        with pytest.raises(UnavailableError, match="going down"):
            await calls[method]()


async def test_the_loop_goes_on_while_frames_are_fetched(double: WireDouble, answer_stream: Answer) -> None:
    def slow() -> Iterator[Any]:
        for _ in range(3):
            time.sleep(0.3)
            yield PIXELS

    async def count() -> None:
        while True:
            await asyncio.sleep(0.01)
            ticks.append(1)

    ticks: list[int] = []
    double.answers["StreamInfer"] = answer_stream
    async with AsyncClient(double.address) as client:
        counter = asyncio.create_task(count())
        assert len([result async for result in client.stream(slow(), ["defect"])]) == 3
        counter.cancel()
    assert len(ticks) > 10


async def test_calls_run_side_by_side(double: WireDouble) -> None:
    meeting = threading.Barrier(4)

    def answer(*_: object) -> inference_pb2.ServerInfo:
        meeting.wait(PATIENCE_S)
        return inference_pb2.ServerInfo(device="cpu")

    double.answers["GetServerInfo"] = answer
    async with AsyncClient(double.address) as client:
        infos = await asyncio.gather(*(client.info() for _ in range(4)))
    assert [info.device for info in infos] == ["cpu"] * 4


def test_a_client_may_be_made_before_its_loop(double: WireDouble) -> None:
    double.answers["GetServerInfo"] = lambda *_: inference_pb2.ServerInfo(device="cpu")
    client = AsyncClient(double.address)

    async def ask() -> str:
        async with client:
            return (await client.info()).device

    assert asyncio.run(ask()) == "cpu"


async def test_closing_twice_and_unused_is_fine(double: WireDouble) -> None:
    client = AsyncClient(double.address)
    await client.close()
    await client.close()
    stream = client.stream(camera(1), ["defect"])
    await stream.close()
    assert await anext(stream, None) is None


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
