from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from factories import pictures
from lensmount.v1 import common_pb2, inference_pb2
from lensmount_adapters.pictures import Pixels, decode_picture
from lensmount_server.engine.jobs import Job
from lensmount_server.engine.runtime import Engine
from lensmount_server.video.decoder import Codec, PacketDecoder
from opened import pixels_of
from serving import (
    CLOSE,
    PATIENCE_S,
    Answered,
    Feed,
    Kit,
    Served,
    config,
    eventually,
    message,
    own_tasks,
    push,
    raw_frame,
    read,
    scores_of,
)
from videos import NS, Packet, encode, number_of, numbered

H264, H265, JPEG, RAW = (
    inference_pb2.CODEC_H264, inference_pb2.CODEC_H265, inference_pb2.CODEC_JPEG, inference_pb2.CODEC_RAW,
)  # fmt: skip


def packets(coded: Sequence[Packet]) -> list[inference_pb2.VideoPacket]:
    return [inference_pb2.VideoPacket(data=each.data, pts_ns=each.pts_ns, dts_ns=each.dts_ns) for each in coded]


def decoded(coded: Sequence[Packet], codec: Codec) -> list[Pixels]:
    """The pictures, decoded here."""
    decoder = PacketDecoder(codec)
    frames = [frame for each in coded for frame in decoder.decode(each.data, each.pts_ns, each.dts_ns)]
    return [pixels_of(frame.picture) for frame in (*frames, *decoder.flush())]


def jpeg(pixels: Pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=95)
    return data.getvalue()


def check_every_frame(
    answered: Answered, kit: Kit, shots: Sequence[Pixels], tasks: Sequence[str] = ("defect",)
) -> None:
    """Every frame is answered once for each task, in order, with the scores of the live version."""
    versions = {"defect": kit.defect[0], "surface": kit.surface, "grade": kit.grade}
    order = [(result.frame_index, result.adapter.task) for result in answered.results]
    assert order == [(index, task) for index in range(len(shots)) for task in tasks]
    for result in answered.results:
        expected = versions[result.adapter.task].scores(shots[result.frame_index])
        assert scores_of(result) == pytest.approx(expected, abs=CLOSE)
    assert (answered.summary.decoded, answered.summary.answered) == (len(shots), len(shots))
    assert answered.summary.dropped == common_pb2.Drops()


@pytest.mark.parametrize(("codec", "name"), [(H264, "h264"), (H265, "h265")])
async def test_video_with_b_frames_is_answered_frame_by_frame(
    live: Served, kit: Kit, codec: inference_pb2.Codec.ValueType, name: Codec
) -> None:
    coded, _ = encode([numbered(number) for number in range(30)], name, b_frames=2)
    assert [each.pts_ns for each in coded] != sorted(each.pts_ns for each in coded)
    answered = await push(live, config(codec, "defect", "surface", with_jpeg=True, name="line-1"), packets(coded))
    assert answered.summary.received == 30
    check_every_frame(answered, kit, decoded(coded, name), ("defect", "surface"))
    assert [result.pts_ns for result in answered.results[::2]] == [index * NS // 25 for index in range(30)]
    assert [number_of(decode_picture(result.jpeg)) for result in answered.results[::2]] == list(range(30))
    assert {result.source for result in answered.results} == {"line-1"} == {answered.started.name}


async def test_parameter_sets_may_come_with_the_config(live: Served, kit: Kit) -> None:
    coded, extradata = encode([numbered(number) for number in range(10)], global_header=True)
    assert extradata
    answered = await push(live, config(H264, "defect", extradata=extradata, with_jpeg=True), packets(coded))
    assert [number_of(decode_picture(result.jpeg)) for result in answered.results] == list(range(10))
    assert answered.summary.answered == 10


async def test_stills(live: Served, kit: Kit) -> None:
    files = [jpeg(shot) for shot in pictures(5, seed=4)]
    items = [inference_pb2.EncodedPicture(data=data, pts_ns=index * 7) for index, data in enumerate(files)]
    answered = await push(live, config(JPEG, "grade", "defect"), items)
    check_every_frame(answered, kit, [decode_picture(data) for data in files], ("grade", "defect"))
    assert [result.pts_ns for result in answered.results[::2]] == [0, 7, 14, 21, 28]
    assert not any(result.jpeg for result in answered.results)


async def test_raw_frames(live: Served, kit: Kit) -> None:
    shots = pictures(12, seed=5)
    answered = await push(live, config(RAW, "defect"), [raw_frame(shot, index) for index, shot in enumerate(shots)])
    check_every_frame(answered, kit, shots)
    assert answered.started.name.startswith("push-")
    assert [each.version for each in answered.started.adapters] == [1]


async def test_a_stream_without_a_frame(live: Served) -> None:
    answered = await push(live, config(RAW, "defect"), [])
    assert answered.results == []
    assert answered.summary == inference_pb2.StreamSummary(dropped=common_pb2.Drops())


async def test_a_damaged_packet_costs_itself_and_is_counted(live: Served) -> None:
    coded, _ = encode([numbered(number) for number in range(24)])
    items = packets(coded)
    items[13].data = items[13].data[:6] + b"\xff" * 40
    answered = await push(live, config(H264, "defect"), items)
    summary = answered.summary
    assert summary.received == 24
    assert summary.decoded == summary.answered == len(answered.results)
    assert summary.decoded + summary.dropped.decode == 24
    assert summary.dropped.decode >= 1
    assert sum(result.dropped_before.decode for result in answered.results) == summary.dropped.decode


def slow_engine(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every batch take longer."""
    run = Engine.run

    def slowly(self: Engine, jobs: Sequence[Job]) -> list[list[Tensor]]:
        time.sleep(seconds)
        return run(self, jobs)

    monkeypatch.setattr(Engine, "run", slowly)


async def test_newest_drops_what_is_too_much_and_accounts_for_it(live: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_engine(monkeypatch, 0.03)
    frames = [raw_frame(shot) for shot in pictures(20, size=(40, 40)) * 5]
    answered = await push(live, config(RAW, "defect", drop_policy=common_pb2.DROP_POLICY_NEWEST), frames)
    summary, results = answered.summary, answered.results
    assert summary.received == summary.decoded == 100
    assert summary.dropped.superseded > 0
    assert summary.dropped == common_pb2.Drops(superseded=summary.dropped.superseded)
    assert summary.decoded == summary.answered + summary.dropped.superseded
    assert len(results) == summary.answered
    assert results[-1].frame_index == 99
    gaps = [after.frame_index - before.frame_index - 1 for before, after in pairwise(results)]
    assert [result.dropped_before.superseded for result in results[1:]] == gaps
    assert results[0].dropped_before.superseded == results[0].frame_index


async def test_frames_that_would_be_late_are_dropped_and_counted(live: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_engine(monkeypatch, 0.4)
    frames = [raw_frame(shot) for shot in pictures(12, size=(40, 40))]
    answered = await push(live, config(RAW, "defect", deadline_ms=100), frames)
    summary = answered.summary
    assert summary.dropped.late > 0
    assert summary.dropped == common_pb2.Drops(late=summary.dropped.late)
    assert summary.decoded == summary.answered + summary.dropped.late == 12


async def test_every_frame_waits_where_newest_would_drop(live: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_engine(monkeypatch, 0.03)
    frames = [raw_frame(shot) for shot in pictures(20, size=(40, 40)) * 2]
    answered = await push(live, config(RAW, "defect", drop_policy=common_pb2.DROP_POLICY_EVERY_FRAME), frames)
    assert [result.frame_index for result in answered.results] == list(range(40))
    assert answered.summary.dropped == common_pb2.Drops()


async def test_a_promotion_in_the_middle_changes_the_version_and_loses_no_frame(live: Served, kit: Kit) -> None:
    await live.client.register(kit.defect[1].folder)
    await live.client.register(kit.defect[2].folder)
    shots = pictures(6, seed=8)
    feed = Feed()
    call = live.inference.StreamInfer(feed)
    feed.send(message(config(RAW, "defect", "surface")))
    assert (await read(call)).WhichOneof("message") == "started"
    results: list[common_pb2.Result] = []
    sent = 0

    async def go_on(frames: int) -> None:
        """Send some frames and take answers, but leave some frames under way."""
        nonlocal sent
        for _ in range(frames):
            feed.send(message(raw_frame(shots[sent % len(shots)])))
            sent += 1
        while len(results) < 2 * (sent - 3):
            results.append((await read(call)).result)

    async with asyncio.timeout(PATIENCE_S):
        for version in (2, 3, 1, 2):
            await go_on(12)
            await live.client.set_alias("defect", version)
        await go_on(12)
        feed.send(None)
        while (answer := await read(call)).WhichOneof("message") == "result":
            results.append(answer.result)
    assert answer.summary.decoded == answer.summary.answered == sent == 60
    order = [(result.frame_index, result.adapter.task) for result in results]
    assert order == [(index, task) for index in range(60) for task in ("defect", "surface")]
    versions = [result.adapter.version for result in results if result.adapter.task == "defect"]
    changes = [versions[0], *(after for before, after in pairwise(versions) if before != after)]
    assert changes == [1, 2, 3, 1, 2]
    for result in results:
        shot = shots[result.frame_index % len(shots)]
        own = kit.surface if result.adapter.task == "surface" else kit.defect[result.adapter.version - 1]
        assert result.adapter.content_hash == own.adapter.content_hash
        assert scores_of(result) == pytest.approx(own.scores(shot), abs=CLOSE)


async def test_a_pinned_stream_stays_where_it_is(live: Served, kit: Kit) -> None:
    await live.client.register(kit.defect[1].folder)
    await live.client.set_alias("defect", 2)
    pinned = inference_pb2.StreamConfig(codec=RAW, tasks=[common_pb2.TaskRef(task="defect", version=1)])
    shots = pictures(4, seed=5)
    check_every_frame(await push(live, pinned, map(raw_frame, shots)), kit, shots)


async def test_two_streams_at_once_get_their_own_answers(live: Served, kit: Kit) -> None:
    coded, _ = encode([numbered(number) for number in range(20)], b_frames=2)
    shots = pictures(20, seed=6)
    video, raw = await asyncio.gather(
        push(live, config(H264, "defect"), packets(coded)),
        push(live, config(RAW, "grade", "surface"), [raw_frame(shot) for shot in shots]),
    )
    check_every_frame(video, kit, decoded(coded, "h264"))
    check_every_frame(raw, kit, shots, ("grade", "surface"))


@pytest.mark.parametrize("in_flight", [0, 8])
async def test_a_stream_that_is_cancelled_leaves_no_task_behind(live: Served, in_flight: int) -> None:
    before = own_tasks()
    feed = Feed()
    call = live.inference.StreamInfer(feed)
    feed.send(message(config(RAW, "defect", drop_policy=common_pb2.DROP_POLICY_NEWEST)))
    await read(call)
    frame = raw_frame(np.zeros((40, 40, 3), np.uint8))
    for _ in range(3):
        feed.send(message(frame))
        await read(call)
    for _ in range(in_flight):
        feed.send(message(frame))
    assert own_tasks() - before
    call.cancel()
    await eventually(lambda: own_tasks() <= before, "every task of the stream has ended")
    shots = pictures(3, seed=6)
    assert len((await push(live, config(RAW, "defect"), map(raw_frame, shots))).results) == 3


async def test_a_client_that_stops_reading_and_goes_away_leaves_no_task_behind(live: Served, kit: Kit) -> None:
    before = own_tasks()
    coded, _ = encode([numbered(number) for number in range(60)], b_frames=2)
    feed = Feed()
    call = live.inference.StreamInfer(feed)
    feed.send(message(config(H264, "defect", with_jpeg=True)))
    for packet in packets(coded):
        feed.send(message(packet))
    for _ in range(4):
        await read(call)
    assert own_tasks() - before
    call.cancel()
    await eventually(lambda: own_tasks() <= before, "every task of the stream has ended")
