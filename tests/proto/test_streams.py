from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from lensmount import (
    AccessUnit,
    AdapterVersion,
    Client,
    Drops,
    InvalidInputError,
    NotFoundError,
    StreamStarted,
    StreamSummary,
    UnavailableError,
)
from lensmount.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from proto.conftest import Answer, WireDouble

PATIENCE_S = 60.0
PIXELS = np.zeros((4, 6, 3), np.uint8)
Response = inference_pb2.StreamInferResponse


def frames(count: int) -> list[Any]:
    return [PIXELS + np.uint8(index) for index in range(count)]


def endless(taken: list[int]) -> Iterator[Any]:
    for index in itertools.count():
        taken.append(index)
        yield np.zeros((400, 400, 3), np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_frames_go_out_and_results_come_in(double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    stream = client.stream(frames(3), ["defect", "scene:2"], name="belt", drop_policy="newest", with_jpeg=True)
    assert (stream.started, stream.summary) == (None, None)
    results = list(stream)
    assert [(result.frame_index, result.task) for result in results] == [
        (index, task) for index in range(3) for task in ("defect", "scene")
    ]
    assert stream.started == StreamStarted("belt", (AdapterVersion("defect", 2, ""), AdapterVersion("scene", 2, "")))
    assert stream.summary == StreamSummary(3, 3, 3, Drops())
    config, *units = double.asked["StreamInfer"]
    assert config.config == inference_pb2.StreamConfig(
        name="belt",
        tasks=[common_pb2.TaskRef(task="defect", alias="live"), common_pb2.TaskRef(task="scene", version=2)],
        codec=inference_pb2.CODEC_RAW,
        drop_policy=common_pb2.DROP_POLICY_NEWEST,
        with_jpeg=True,
    )
    assert [unit.raw.data for unit in units] == [frame.tobytes() for frame in frames(3)]
    assert [unit.raw.pts_ns for unit in units] == [0, 40_000_000, 80_000_000]


def test_every_frame_counts_unless_said(double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    assert len(list(client.stream([b"jpeg", b"more"], "defect", fps=10))) == 2
    config, *units = double.asked["StreamInfer"]
    assert config.config.drop_policy == common_pb2.DROP_POLICY_EVERY_FRAME
    assert config.config.codec == inference_pb2.CODEC_JPEG
    assert [(unit.encoded.data, unit.encoded.pts_ns) for unit in units] == [(b"jpeg", 0), (b"more", 100_000_000)]


def test_access_units_of_ones_own(double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    units = [AccessUnit("h265", b"key", 40, 0, extradata=b"headers"), AccessUnit("h265", b"next", 80, 40)]
    assert len(list(client.stream(units, ["defect"]))) == 2
    config, first, second = double.asked["StreamInfer"]
    assert (config.config.codec, config.config.extradata) == (inference_pb2.CODEC_H265, b"headers")
    assert first.packet == inference_pb2.VideoPacket(data=b"key", pts_ns=40, dts_ns=0)
    assert second.packet == inference_pb2.VideoPacket(data=b"next", pts_ns=80, dts_ns=40)


@pytest.mark.parametrize("shape", [(8, 4, 6, 3)])
def test_an_array_of_frames_is_a_video(
    shape: tuple[int, ...], double: WireDouble, client: Client, answer_stream: Answer
) -> None:
    double.answers["StreamInfer"] = answer_stream
    assert len(list(client.stream(np.zeros(shape, np.uint8), ["defect"]))) == 8


def test_drops_are_added_up_until_the_summary_says(double: WireDouble, client: Client, result_message: Any) -> None:
    def answer(requests: Iterator[Any], _: grpc.ServicerContext) -> Iterator[Response]:
        for notice in (common_pb2.Drops(superseded=2), common_pb2.Drops(superseded=1, late=1)):
            yield Response(dropped=inference_pb2.DropNotice(dropped=notice))
            yield Response(result=result_message(dropped_before=notice))
        list(requests)
        dropped = common_pb2.Drops(superseded=3, late=1, decode=5)
        yield Response(summary=inference_pb2.StreamSummary(received=11, decoded=6, answered=2, dropped=dropped))

    double.answers["StreamInfer"] = answer
    stream = client.stream(frames(2), ["defect"])
    assert next(stream).dropped_before == Drops(superseded=2)
    assert stream.dropped == Drops(superseded=2)
    assert next(stream).dropped_before == Drops(superseded=1, late=1)
    assert stream.dropped == Drops(superseded=3, late=1)
    assert next(stream, None) is None
    assert stream.dropped == Drops(superseded=3, late=1, decode=5)
    assert stream.summary
    assert stream.summary.dropped.total == 9


@pytest.mark.parametrize("leave", ["break", "close", "with"])
def test_leaving_early_cancels_the_call(leave: str, double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    taken: list[int] = []
    stream = client.stream(endless(taken), ["defect"])
    if leave == "break":
        for _ in stream:
            break
    elif leave == "close":
        next(stream)
        stream.close()
    else:
        with stream:
            next(stream)
    assert double.cancelled.wait(PATIENCE_S)
    assert next(stream, None) is None
    stopped_at = len(taken)
    time.sleep(0.2)
    assert len(taken) <= stopped_at + 1


def test_a_forgotten_stream_ends(double: WireDouble, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    with Client(double.address) as client:
        next(client.stream(endless([]), ["defect"]))
        gc.collect()
        assert double.cancelled.wait(PATIENCE_S)


def test_a_slow_server_holds_the_sender_back(double: WireDouble, client: Client, result_message: Any) -> None:
    go_on = threading.Event()

    def answer(requests: Iterator[Any], _: grpc.ServicerContext) -> Iterator[Response]:
        next(requests)
        yield Response(result=result_message())
        go_on.wait(PATIENCE_S)
        count = sum(1 for _ in requests)
        yield Response(summary=inference_pb2.StreamSummary(received=count))

    double.answers["StreamInfer"] = answer
    taken: list[int] = []
    video = itertools.islice(endless(taken), 400)  # 190 MB
    stream = client.stream(video, ["defect"])
    assert next(stream)
    before = -1
    while len(taken) != before:  # until the sender stands still
        before = len(taken)
        time.sleep(0.5)
    assert before < 100, "the video was buffered"
    go_on.set()
    assert next(stream, None) is None
    assert stream.summary
    assert stream.summary.received == 400


def test_a_slow_reader_holds_the_server_back(double: WireDouble, client: Client, result_message: Any) -> None:
    answered: list[int] = []

    def answer(requests: Iterator[Any], _: grpc.ServicerContext) -> Iterator[Response]:
        list(requests)
        for index in range(400):
            answered.append(index)
            yield Response(result=result_message(frame_index=index, jpeg=bytes(480_000)))

    double.answers["StreamInfer"] = answer
    stream = client.stream(frames(1), ["defect"])
    assert next(stream)
    before = -1
    while len(answered) != before:
        before = len(answered)
        time.sleep(0.5)
    assert before < 100, "the results were buffered"
    assert sum(1 for _ in stream) == 399


def test_realtime_sends_at_the_videos_pace(double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    start = time.monotonic()
    assert len(list(client.stream(frames(6), ["defect"], realtime=True, fps=10))) == 6
    assert time.monotonic() - start >= 0.5
    assert len(double.asked["StreamInfer"]) == 7


@pytest.mark.parametrize("realtime", [False, True])
def test_closing_lets_go_of_the_video_at_once(
    realtime: bool, double: WireDouble, client: Client, answer_stream: Answer
) -> None:
    released = threading.Event()

    def camera() -> Iterator[Any]:
        try:
            yield from endless([])
        finally:
            released.set()

    double.answers["StreamInfer"] = answer_stream
    with client.stream(camera(), ["defect"], realtime=realtime, fps=0.001) as stream:
        assert next(stream)
    assert double.cancelled.wait(PATIENCE_S)
    assert released.wait(PATIENCE_S), "the sender waits for the next frame's time"


def test_an_error_of_the_callers_iterable_comes_after_the_answers(
    double: WireDouble, client: Client, answer_stream: Answer
) -> None:
    def broken() -> Iterator[Any]:
        yield from frames(3)
        raise OSError("camera unplugged")

    double.answers["StreamInfer"] = answer_stream
    stream = client.stream(broken(), ["defect"])
    assert [next(stream).frame_index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="camera unplugged"):
        next(stream)
    assert next(stream, None) is None


@pytest.mark.parametrize(
    ("video", "says"),
    [
        ([], "no frame came"),
        ([PIXELS[0]], "height x width x 3"),
        ([None], "not a frame"),
        ([b""], "0 bytes"),
    ],
)
def test_a_video_that_is_wrong_from_the_start_never_leaves(
    video: Any, says: str, double: WireDouble, client: Client
) -> None:
    with pytest.raises(InvalidInputError, match=says):
        next(client.stream(video, ["defect"]))
    assert not double.asked


def test_all_frames_are_of_one_kind(double: WireDouble, client: Client, answer_stream: Answer) -> None:
    double.answers["StreamInfer"] = answer_stream
    stream = client.stream([PIXELS, b"jpeg"], ["defect"])
    assert next(stream)
    with pytest.raises(InvalidInputError, match=r"another kind than the first \(got bytes\)"):
        next(stream)


@pytest.mark.parametrize("video", [b"jpeg", PIXELS, PIXELS[0], 3, None])
def test_a_single_picture_is_no_video(video: Any, client: Client) -> None:
    with pytest.raises(InvalidInputError, match=r"infer\(\)"):
        client.stream(video, ["defect"])


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_a_rate_is_positive(fps: float, client: Client) -> None:
    with pytest.raises(InvalidInputError, match="not a rate"):
        client.stream([PIXELS], ["defect"], fps=fps)


def test_a_refused_config_is_the_servers_error(double: WireDouble, client: Client) -> None:
    double.fail("StreamInfer", NotFoundError("no such task", field="tasks", value="defect", fix="register it"))
    with pytest.raises(NotFoundError, match="register it"):
        list(client.stream(endless([]), ["defect"]))


def test_a_server_that_dies_ends_the_stream_with_an_error(
    double: WireDouble, client: Client, answer_stream: Answer
) -> None:
    double.answers["StreamInfer"] = answer_stream
    stream = client.stream(endless([]), ["defect"])
    assert next(stream)
    threading.Thread(target=double.stop).start()
    with pytest.raises(UnavailableError):
        list(stream)


def test_no_server_there(connect: Callable[..., Client]) -> None:
    with pytest.raises(UnavailableError, match="lensmount serve"):
        next(connect("127.0.0.1:1").stream(frames(1), ["defect"]))


def test_closing_the_client_ends_its_streams(
    double: WireDouble, connect: Callable[..., Client], answer_stream: Answer
) -> None:
    double.answers["StreamInfer"] = answer_stream
    client = connect(double.address)
    stream = client.stream(endless([]), ["defect"])
    assert next(stream)
    client.close()
    with pytest.raises(UnavailableError):
        list(stream)
    assert double.cancelled.wait(PATIENCE_S)


def test_a_path_that_is_not_there_never_leaves(double: WireDouble, client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="No such file"):
        next(client.stream(tmp_path / "clip.mp4", ["defect"]))
    assert not double.asked
