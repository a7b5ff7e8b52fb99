"""ModelInfer: every form of input and output gives what our own Infer gives, to the bit."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray
from PIL import Image

from factories import head_package, pictures
from kserving import blocking, own_scores, parameter, raw_request, shots_of, stub, tensor, triton_refused
from lensmount.v1 import inference_pb2
from lensmount_adapters.adapter import fit
from lensmount_adapters.manifest import read_manifest
from lensmount_adapters.outcome import decide
from lensmount_adapters.package import read_package
from lensmount_adapters.pictures import Pixels, decode_picture
from serving import CLOSE, Kit, Served, raw_frame, refs, scores_of

SHOTS = pictures(5, seed=12)
SHOT = SHOTS[0]


def encoded(pixels: Pixels, format_: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format_)
    return data.getvalue()


def alike(result: Any, expected: list[NDArray[np.float32]]) -> bool:
    """Rows of a larger batch may differ in their last bits; those of other pictures differ by far more."""
    return np.allclose(result.as_numpy("scores"), expected, rtol=0, atol=1e-6)


async def test_pixels(live: Served, kit: Kit, client: Any) -> None:
    result = await client.infer("defect", shots_of(SHOT), request_id="one")
    scores = result.as_numpy("scores")
    assert np.array_equal(scores, [await own_scores(live, SHOT)])
    assert scores[0] == pytest.approx(kit.defect[0].scores(SHOT), abs=CLOSE)
    manifest = kit.defect[0].adapter.manifest
    assert result.as_numpy("labels").tolist() == [[manifest.labels[int(scores[0].argmax())].encode()]]
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("defect", "1", "one")
    assert parameter(result, "content_hash") == kit.defect[0].adapter.content_hash
    assert parameter(result, "version") == 1
    assert parameter(result, "task") == "defect"
    assert parameter(result, "queue_ms") >= 0
    assert parameter(result, "inference_ms") > 0
    assert "triton_final_response" not in response.parameters


@pytest.mark.parametrize("size", [(160, 160), (90, 120), (200, 161), (33, 500), (1, 1)])
async def test_pixels_of_any_size(live: Served, client: Any, size: tuple[int, int]) -> None:
    (shot,) = pictures(1, seed=3, size=size)
    result = await client.infer("defect", shots_of(shot))
    assert np.array_equal(result.as_numpy("scores"), [await own_scores(live, shot)])


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "BMP"])
async def test_files(live: Served, client: Any, format_: str) -> None:
    files = [encoded(each, format_) for each in SHOTS[:2]]
    expected = [await own_scores(live, decode_picture(file)) for file in files]
    for shape in ((2,), (2, 1)):
        values = np.array(files, object).reshape(shape)
        result = await client.infer("defect", [tensor("encoded", values)])
        assert alike(result, expected)
    result = await client.infer("defect", [tensor("encoded", np.array(files[:1], object))])
    assert np.array_equal(result.as_numpy("scores"), expected[:1])


async def test_normalised_pixels(live: Served, kit: Kit, client: Any) -> None:
    preprocessing = kit.backbone.preprocessing
    rows = np.stack([preprocessing.prepare(each).numpy() for each in SHOTS[:3]])
    values = preprocessing.normalize(torch.from_numpy(rows)).numpy()
    expected = [await own_scores(live, each) for each in SHOTS[:3]]
    assert alike(await client.infer("defect", [tensor("pixel_values", values)]), expected)
    result = await client.infer("defect", [tensor("pixel_values", values[:1])])
    assert np.array_equal(result.as_numpy("scores"), expected[:1])


async def test_normalised_pixels_that_no_picture_gives_are_refused(kit: Kit, client: Any) -> None:
    preprocessing = kit.backbone.preprocessing
    good = preprocessing.normalize(preprocessing.prepare(SHOT)[None]).numpy()
    step = 1 / 255 / np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    assert (await client.infer("defect", [tensor("pixel_values", good + step / 50)])).as_numpy("scores").shape == (1, 3)
    for bad in (good + step / 2, good * 2, np.full_like(good, np.nan), np.full_like(good, np.inf)):
        call = client.infer("defect", [tensor("pixel_values", bad.astype(np.float32))])
        sentence = await triton_refused(call, "INVALID_ARGUMENT")
        assert "not the normalised pixels of a picture" in sentence
    other = np.zeros((1, 3, 32, 32), np.float32)
    sentence = await triton_refused(client.infer("defect", [tensor("pixel_values", other)]), "INVALID_ARGUMENT")
    assert "160, 160" in sentence


async def test_numbers_one_by_one(live: Served, kit: Kit) -> None:
    expected = np.array([await own_scores(live, SHOT)])
    preprocessing = kit.backbone.preprocessing
    values = preprocessing.normalize(preprocessing.prepare(SHOT)[None]).numpy()
    contents: dict[str, tuple[str, tuple[int, ...], dict[str, list[Any]]]] = {
        "picture": ("UINT8", SHOT[None].shape, {"uint_contents": SHOT.ravel().tolist()}),
        "encoded": ("BYTES", (1,), {"bytes_contents": [encoded(SHOT)]}),
        "pixel_values": ("FP32", values.shape, {"fp32_contents": values.ravel().tolist()}),
    }
    for name, (datatype, shape, content) in contents.items():
        request = raw_request([SHOT])
        request.ClearField("raw_input_contents")
        own = request.inputs[0]
        own.name, own.datatype, own.shape[:] = name, datatype, shape
        for field, numbers in content.items():
            getattr(own.contents, field).extend(numbers)
        response = await stub(live).ModelInfer(request)
        assert np.array_equal(np.frombuffer(response.raw_output_contents[0], "<f4")[None], expected)


async def test_many_pictures_are_answered_in_order(live: Served, client: Any) -> None:
    result = await client.infer("defect", shots_of(*SHOTS))
    assert alike(result, [await own_scores(live, each) for each in SHOTS])
    back = await client.infer("defect", shots_of(*SHOTS[::-1]))
    assert not alike(back, [await own_scores(live, each) for each in SHOTS])
    assert result.as_numpy("labels").shape == (5, 1)


async def test_only_what_is_asked_for_comes_in_the_order_asked(client: Any) -> None:
    for names in (["labels"], ["scores"], ["labels", "scores"]):
        outputs = [triton.InferRequestedOutput(name) for name in names]
        result = await client.infer("defect", shots_of(SHOT), outputs=outputs)
        assert [output.name for output in result.get_response().outputs] == names
        assert all(len(result.as_numpy(name)) == 1 for name in names)


@pytest.mark.parametrize("count", [1, 2, 3, 100])
async def test_classification(kit: Kit, client: Any, count: int) -> None:
    outputs = [triton.InferRequestedOutput("scores", class_count=count), triton.InferRequestedOutput("labels")]
    result = await client.infer("defect", shots_of(*SHOTS[:2]), outputs=outputs)
    plain = (await client.infer("defect", shots_of(*SHOTS[:2]))).as_numpy("scores")
    labels = kit.defect[0].adapter.manifest.labels
    found = result.as_numpy("scores")
    assert found.shape == (2, min(count, len(labels)))
    for row, scores in zip(found, plain, strict=True):
        best = np.argsort(-scores, kind="stable")[:count]
        parts = [each.decode().split(":", 2) for each in row]
        assert [int(part[1]) for part in parts] == best.tolist()
        assert [part[2] for part in parts] == [labels[index] for index in best]
        assert [float(part[0]) for part in parts] == pytest.approx(scores[best].tolist(), abs=1e-6)


async def test_several_labels_are_padded(live: Served, kit: Kit, client: Any, tmp_path: Path) -> None:
    head_package(tmp_path / "marks", kit.backbone, task="marks", labels=4, seed=8)
    described = read_manifest(tmp_path / "marks").model_copy(
        update={"kind": "multi_label", "thresholds": [0.5, 0.0, 1.0, 0.4]}
    )
    (tmp_path / "marks" / "task.json").write_text(described.model_dump_json())
    adapter = fit(read_package(tmp_path / "marks"), kit.backbone)
    await live.client.register(tmp_path / "marks", alias="live")
    result = await client.infer("marks", shots_of(*SHOTS))
    assert list((await client.get_model_metadata("marks")).outputs[1].shape) == [-1, 4]
    for row, scores in zip(result.as_numpy("labels"), result.as_numpy("scores"), strict=True):
        chosen = decide(adapter.manifest, tuple(scores.tolist()))
        assert "marks-1" in chosen
        assert [each.decode() for each in row] == [*chosen, *[""] * (4 - len(chosen))]


async def test_by_alias_and_by_version(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    await live.client.register(kit.defect[2].folder)
    asked = {
        ("defect", ""): 0,
        ("defect@live", ""): 0,
        ("defect/picture", ""): 0,
        ("defect@canary/picture", ""): 1,
        ("defect@canary", ""): 1,
        ("defect", "3"): 2,
        ("defect", "2"): 1,
    }
    for (model, version), index in asked.items():
        result = await client.infer(model, shots_of(SHOT), model_version=version)
        assert result.as_numpy("scores")[0] == pytest.approx(kit.defect[index].scores(SHOT), abs=CLOSE)
        assert (result.get_response().model_name, result.get_response().model_version) == (model, str(index + 1))
        assert parameter(result, "content_hash") == kit.defect[index].adapter.content_hash
        assert parameter(result, "version") == index + 1


async def test_all_pictures_of_a_request_have_one_version_though_a_promotion_comes_between(
    live: Served, kit: Kit, client: Any
) -> None:
    await live.client.register(kit.defect[1].folder)
    many = [SHOTS[index % 5] for index in range(64)]
    request = asyncio.ensure_future(client.infer("defect", shots_of(*many)))
    await asyncio.sleep(0.02)
    await live.client.set_alias("defect", 2)
    result = await request
    # Which of the two is a matter of luck here; tests/server/test_answer_alike.py holds the engine in the middle.
    number = int(result.get_response().model_version)
    for row, shot in zip(result.as_numpy("scores"), many, strict=True):
        assert row == pytest.approx(kit.defect[number - 1].scores(shot), abs=CLOSE)
    after = await client.infer("defect", shots_of(SHOT))
    assert after.get_response().model_version == "2"


async def test_the_blocking_client(live: Served) -> None:
    client = triton.InferenceServerClient(live.address)
    try:
        result = await blocking(client.infer, "defect", shots_of(SHOT))
        assert np.array_equal(result.as_numpy("scores"), [await own_scores(live, SHOT)])
    finally:
        await blocking(client.close)


async def test_own_results_are_float32_of_the_same_numbers(live: Served, client: Any) -> None:
    own = await live.inference.Infer(inference_pb2.InferRequest(tasks=refs("grade"), raw=raw_frame(SHOT)))
    result = await client.infer("grade", shots_of(SHOT))
    assert tuple(result.as_numpy("scores")[0].tolist()) == pytest.approx(scores_of(own.results[0]), abs=0)
