from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from torch import Tensor
from tritonclient.grpc import service_pb2

from factories import pictures
from lensmount.errors import InvalidInputError, LensmountError, ServerError, TooLargeError
from lensmount.v1 import adapters_pb2, inference_pb2, sources_pb2
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.registry import Registry
from lensmount_server.services import convert
from lensmount_server.services.errors import MAX_MESSAGE_BYTES, TRANSPORT_BYTES
from opened import pixels_of
from serving import Feed, Served, config, eventually, message, messages, own_tasks, push, raw_frame, read, refs, refused

RAW = inference_pb2.CODEC_RAW
SHOTS = pictures(4, seed=7)


def defect(*_: object, **__: object) -> Any:
    raise RuntimeError("a secret of the house")


def check_defect(error: LensmountError, log: pytest.LogCaptureFixture) -> None:
    """The client has the id and nothing else; the log has the trace under that id."""
    assert isinstance(error, ServerError)
    assert error.fix
    assert "secret" not in str(error)
    (trace_id,) = re.findall(r"[0-9a-f]{12}", error.message)
    (record,) = [record for record in log.records if trace_id in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert "a secret of the house" in log.text
    assert "Traceback" in log.text


async def test_a_defect_in_a_call_is_an_id_for_the_client_and_a_trace_in_the_log(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = inference_pb2.InferRequest(tasks=refs("defect"), raw=raw_frame(SHOTS[0]))
    monkeypatch.setattr(convert, "answer", defect)
    check_defect(await refused(live.inference.Infer(request)), caplog)
    monkeypatch.undo()
    assert await live.inference.Infer(request)


async def test_a_defect_in_a_stream(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(convert, "stream_result", defect)
    call = live.inference.StreamInfer(messages(config(RAW, "defect"), map(raw_frame, SHOTS)))
    check_defect(await refused(call), caplog)


async def test_a_defect_on_the_disk(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Registry, "page", defect)
    check_defect(await refused(live.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest())), caplog)


async def test_a_defect_in_the_engine_costs_one_stream_and_no_other(
    live: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Engine.run

    def fragile(self: Engine, jobs: Sequence[Job]) -> list[list[Tensor]]:
        return defect() if any(not pixels_of(job.picture).any() for job in jobs) else run(self, jobs)

    monkeypatch.setattr(Engine, "run", fragile)
    black = raw_frame(np.zeros((40, 40, 3), np.uint8))
    bad = live.inference.StreamInfer(messages(config(RAW, "defect"), [raw_frame(SHOTS[0]), black, raw_frame(SHOTS[1])]))
    good, error = await asyncio.gather(
        push(live, config(RAW, "surface"), [raw_frame(shot) for shot in SHOTS * 20]), refused(bad)
    )
    check_defect(error, caplog)
    assert good.summary.answered == 80


async def test_a_stream_that_fails_while_its_client_still_sends_leaves_no_task_behind(
    live: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = own_tasks()
    monkeypatch.setattr(Engine, "run", defect)
    feed = Feed(message(config(RAW, "defect")), *(message(raw_frame(shot)) for shot in SHOTS * 5))
    call = live.inference.StreamInfer(feed)
    assert isinstance(await refused(call), ServerError)
    feed.send(None)  # the client's own task waits for it; to the server nothing goes any more
    await eventually(lambda: not own_tasks() - before, "every task of the stream has ended")


METHODS = [
    method
    for file in (inference_pb2, adapters_pb2, sources_pb2, service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x0a\x05abc", b"\x07"])
async def test_bytes_that_are_no_message_are_one_status(server: Served, method: Any, data: bytes) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call: Any = getattr(server.channel, kind)(path)

    async def garbage() -> Any:
        yield data

    error = await refused(call(garbage() if method.client_streaming else data))
    assert isinstance(error, InvalidInputError)
    assert (error.field, error.value) == ("message", f"{len(data)} bytes")
    assert error.fix


async def test_a_call_that_there_is_not(server: Served) -> None:
    dream: Any = server.channel.unary_unary("/lensmount.v1.InferenceService/Dream")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await dream(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, TRANSPORT_BYTES + 1])
async def test_a_message_beyond_the_limits_is_refused(live: Served, size: int) -> None:
    request = inference_pb2.InferRequest(tasks=refs("defect"), encoded=inference_pb2.EncodedPicture(data=bytes(size)))
    error = await refused(live.inference.Infer(request))
    assert isinstance(error, TooLargeError)
    assert error.field == "message"
    assert f"{size:,}"[:5] in error.value
    assert error.fix
    small = inference_pb2.InferRequest(tasks=refs("defect"), raw=raw_frame(SHOTS[0]))
    assert await live.inference.Infer(small)


async def test_a_message_as_large_as_it_may_be_is_taken(live: Served) -> None:
    request = inference_pb2.InferRequest(tasks=refs("defect"), encoded=inference_pb2.EncodedPicture())
    request.encoded.data = bytes(MAX_MESSAGE_BYTES - request.ByteSize() - 10)
    assert MAX_MESSAGE_BYTES - 10 <= request.ByteSize() <= MAX_MESSAGE_BYTES
    error = await refused(live.inference.Infer(request))
    assert isinstance(error, InvalidInputError)
    assert error.field == "encoded.data"


async def test_a_message_beyond_the_limit_ends_its_stream_and_no_other(live: Served) -> None:
    other = Feed(message(config(RAW, "surface")))
    beside = live.inference.StreamInfer(other)
    await read(beside)
    large = inference_pb2.RawFrame(width=1, height=1, data=bytes(MAX_MESSAGE_BYTES + 1))
    frames = [raw_frame(SHOTS[0]), large, raw_frame(SHOTS[1])]
    error = await refused(live.inference.StreamInfer(messages(config(RAW, "defect"), frames)))
    assert isinstance(error, TooLargeError)
    assert error.field == "message"
    other.send(message(raw_frame(SHOTS[2])), None)
    assert (await read(beside)).result.frame_index == 0
    assert (await read(beside)).summary.answered == 1


async def test_a_hostile_name_in_an_error_does_not_make_it_another_one(live: Served) -> None:
    """gRPC allows 8 KiB of metadata; the details of a status are metadata."""
    for name in ("x" * 100_000, "ü" * 50_000, "\0\n\r" * 10_000, "\U0001f680" * 5_000):
        request = inference_pb2.InferRequest(tasks=refs(name), raw=raw_frame(SHOTS[0]))
        error = await refused(live.inference.Infer(request))
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert error.field == "tasks"
        assert error.value[:10] == name[:10]


async def test_a_call_whose_time_is_up_ends_and_the_server_goes_on(
    live: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(message(config(RAW, "defect")))
    call = live.inference.StreamInfer(feed, timeout=0.3)
    await read(call)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(call.done, "the call is over")
    assert (await push(live, config(RAW, "defect"), map(raw_frame, SHOTS))).summary.answered == 4
