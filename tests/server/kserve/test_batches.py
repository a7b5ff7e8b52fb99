"""Requests of this front in the one queue of the server: in batches with video, by priority, and where it is full."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kserving import raw_request, shots_of, stub, triton_of
from lensmount.errors import UnavailableError
from lensmount.v1 import inference_pb2
from lensmount_adapters.pictures import Pixels
from lensmount_server import app
from lensmount_server.engine.jobs import Job
from lensmount_server.frames import Ready
from lensmount_server.scheduler import Scheduler
from lensmount_server.scheduling import MAX_WAITING
from lensmount_server.scoring import Row
from serving import PATIENCE_S, Feed, Kit, Served, config, eventually, message, raw_frame, read, refused, serving


class Held(Scheduler):
    """The real one; while a test holds it, a batch runs when the test lets it."""

    def __init__(self, *given: Any) -> None:
        self.held = False
        self.may_run = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        super().__init__(*given)

    def _run_engine(self, jobs: Sequence[Job]) -> list[list[Row]]:
        if self.held:
            self.batches.append([_level(job) for job in jobs])
            assert self.may_run.acquire(timeout=PATIENCE_S)
        return super()._run_engine(jobs)

    @property
    def waiting(self) -> int:
        """The pictures that wait behind those that run."""
        return len(self._waiting)

    def let_go(self) -> None:
        """Let everything run."""
        self.held = False
        self.may_run.release(MAX_WAITING)


def _level(job: Job) -> int:
    """The first value of a picture of one level."""
    shown: Any = job.picture
    return int(shown.row[0, 0, 0]) if isinstance(shown, Ready) else int(shown.pixels[0, 0, 0])


def shot(level: int) -> Pixels:
    """A picture of one level that needs no scaling."""
    return np.full((160, 160, 3), level, np.uint8)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Held]]:
    """The schedulers of the servers that are started."""
    found: list[Held] = []

    class Noted(Held):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            found.append(self)

    monkeypatch.setattr(app, "Scheduler", Noted)
    yield found
    for each in found:
        each.let_go()


@pytest.fixture
async def server(kit: Kit, tmp_path: Path, made: list[Held]) -> AsyncIterator[Served]:
    async with serving(kit, tmp_path / "data") as served:
        yield served
        made[0].let_go()


@pytest.fixture
def held(live: Served, made: list[Held]) -> Held:
    """The scheduler of `live`, held from now on."""
    assert live
    made[0].held = True
    return made[0]


def begin(call: Any) -> asyncio.Task[Any]:
    """Let a call of gRPC run."""

    async def run() -> Any:
        return await call

    work: Coroutine[Any, Any, Any] = run()
    return asyncio.create_task(work)


async def busy(held: Held, live: Served) -> asyncio.Task[Any]:
    """A request on the engine, so that all others wait behind it."""
    running = begin(stub(live).ModelInfer(raw_request([shot(0)], "surface")))
    await eventually(lambda: held.batches, "the engine is busy")
    assert held.batches == [[0]]
    return running


async def test_frames_of_a_stream_and_requests_of_this_front_run_in_one_batch(live: Served, held: Held) -> None:
    feed = Feed(message(config(inference_pb2.CODEC_RAW, "defect")))
    pushed = live.inference.StreamInfer(feed)
    await read(pushed)
    running = await busy(held, live)
    feed.send(message(raw_frame(shot(1))))
    await eventually(lambda: held.waiting == 1, "the frame waits")
    unary = begin(stub(live).ModelInfer(raw_request([shot(2), shot(3)])))
    await eventually(lambda: held.waiting == 3, "the request waits")
    streamed = begin(stub(live).ModelStreamInfer(iter([raw_request([shot(4)])])).read())
    await eventually(lambda: held.waiting == 4, "the request on a stream waits")
    held.may_run.release(2)
    await asyncio.wait([running, unary, streamed], timeout=PATIENCE_S)
    assert (await read(pushed)).result.frame_index == 0
    assert not (await streamed).error_message
    assert [sorted(batch) for batch in held.batches] == [[0], [1, 2, 3, 4]]
    assert (await unary).outputs[0].shape == [2, 3]
    async with triton_of(live) as client:
        (found,) = (await client.get_inference_statistics("defect")).model_stats
    assert (found.inference_count, found.execution_count) == (3, 1)
    assert [(each.batch_size, each.compute_infer.count) for each in found.batch_stats] == [(4, 1)]
    feed.send(None)
    assert (await read(pushed)).summary.answered == 1


@pytest.mark.parametrize(
    ("many", "one", "first"), [(2, 1, True), (0, 1, True), (0, 10, True), (0, 0, False), (2, 2, False)]
)
async def test_an_urgent_request_goes_before_a_bulk_one(
    live: Served, held: Held, many: int, one: int, first: bool
) -> None:
    running = await busy(held, live)
    async with triton_of(live) as client:
        bulk = asyncio.create_task(client.infer("defect", shots_of(*[shot(1)] * 12), priority=many))
        await eventually(lambda: held.waiting == 12, "the bulk waits")
        urgent = asyncio.create_task(client.infer("defect", shots_of(shot(2)), priority=one))
        await eventually(lambda: held.waiting == 13, "the urgent one waits behind it")
        held.may_run.release(3)
        await asyncio.gather(running, bulk, urgent)
    assert [len(batch) for batch in held.batches] == [1, 8, 5]
    assert (2 in held.batches[1], 2 in held.batches[2]) == (first, not first)


async def test_where_the_queue_is_full_a_request_is_told_to_come_again(live: Served, held: Held) -> None:
    running = await busy(held, live)
    full = [begin(stub(live).ModelInfer(raw_request([np.zeros((8, 8, 3), np.uint8)] * 256))) for _ in range(4)]
    await eventually(lambda: held.waiting == MAX_WAITING, "the queue is full")
    error = await refused(stub(live).ModelInfer(raw_request([shot(1)])))
    assert isinstance(error, UnavailableError)
    assert error.message.startswith("too many frames wait for the engine")
    assert "fewer requests under way" in error.fix
    assert "drop_policy" not in error.message + error.fix
    assert not any(each.done() for each in full)
    for each in full:
        each.cancel()
    await eventually(lambda: held.waiting == 0, "what was given up does not wait")
    held.let_go()
    assert (await running).model_version == "1"
    assert (await stub(live).ModelInfer(raw_request([shot(1)]))).model_version == "1"
