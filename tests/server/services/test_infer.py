from __future__ import annotations

import io

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image

from factories import pictures
from lensmount.v1 import common_pb2, inference_pb2
from lensmount_adapters.pictures import Pixels, decode_picture
from serving import CLOSE, PATIENCE_S, Kit, Served, raw_frame, refs, scores_of

SHOT = pictures(1, seed=12)[0]


def encoded(pixels: Pixels, format_: str) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format_)
    return data.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "WEBP"])
async def test_an_encoded_picture(live: Served, kit: Kit, format_: str) -> None:
    data = encoded(SHOT, format_)
    request = inference_pb2.InferRequest(tasks=refs("defect"), encoded=inference_pb2.EncodedPicture(data=data))
    (result,) = (await live.inference.Infer(request)).results
    assert scores_of(result) == pytest.approx(kit.defect[0].scores(decode_picture(data)), abs=CLOSE)


async def test_raw_pixels_in_both_orders(live: Served, kit: Kit) -> None:
    rgb = inference_pb2.InferRequest(tasks=refs("defect"), raw=raw_frame(SHOT))
    bgr = inference_pb2.InferRequest(tasks=refs("defect"), raw=raw_frame(np.ascontiguousarray(SHOT[:, :, ::-1])))
    bgr.raw.pixel_format = inference_pb2.PIXEL_FORMAT_BGR24
    for request in (rgb, bgr):
        (result,) = (await live.inference.Infer(request)).results
        assert scores_of(result) == pytest.approx(kit.defect[0].scores(SHOT), abs=CLOSE)


async def test_several_tasks_answer_in_the_order_asked(live: Served, kit: Kit) -> None:
    request = inference_pb2.InferRequest(tasks=refs("grade", "defect", "surface"), raw=raw_frame(SHOT))
    results = (await live.inference.Infer(request)).results
    versions = (kit.grade, kit.defect[0], kit.surface)
    assert [result.adapter.task for result in results] == ["grade", "defect", "surface"]
    for result, version in zip(results, versions, strict=True):
        assert scores_of(result) == pytest.approx(version.scores(SHOT), abs=CLOSE)
        assert result.adapter.content_hash == version.adapter.content_hash
        assert [score.label for score in result.scores] == version.adapter.manifest.labels
        best = max(result.scores, key=lambda score: score.score)
        assert list(result.labels) == [best.label]


async def test_a_version_by_alias_and_by_number(live: Served, kit: Kit) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    await live.client.register(kit.defect[2].folder)
    wanted = [
        common_pb2.TaskRef(task="defect"),
        common_pb2.TaskRef(task="defect", alias="canary"),
        common_pb2.TaskRef(task="defect", version=3),
        common_pb2.TaskRef(task="defect", alias="canary", version=1),
    ]
    results = (await live.inference.Infer(inference_pb2.InferRequest(tasks=wanted, raw=raw_frame(SHOT)))).results
    assert [result.adapter.version for result in results] == [1, 2, 3, 1]
    for result, number in zip(results, (0, 1, 2, 0), strict=True):
        assert scores_of(result) == pytest.approx(kit.defect[number].scores(SHOT), abs=CLOSE)


async def test_times_are_told(live: Served) -> None:
    picture = inference_pb2.EncodedPicture(data=encoded(SHOT, "JPEG"))
    request = inference_pb2.InferRequest(tasks=refs("defect"), encoded=picture)
    (result,) = (await live.inference.Infer(request)).results
    timings = result.timings
    assert result.capture_time_ns > 0
    assert timings.decode_ms > 0
    assert timings.inference_ms > 0
    assert timings.queue_ms >= 0
    assert timings.total_ms >= timings.decode_ms + timings.inference_ms


async def test_a_call_without_the_time_for_it_is_refused_with_the_reason(live: Served, kit: Kit) -> None:
    request = inference_pb2.InferRequest(tasks=refs("defect"), raw=raw_frame(SHOT))
    assert (await live.inference.Infer(request, timeout=PATIENCE_S)).results
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await live.inference.Infer(request, timeout=1e-4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
