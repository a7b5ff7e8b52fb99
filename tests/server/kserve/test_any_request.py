"""Whatever a request is made of, it is answered or refused with a sentence: never a defect, never silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from blocking import Loop
from factories import pictures
from kserving import own_scores, raw_request
from serving import Kit, Served, serving

SHOT = pictures(1, seed=2)[0]


def messages() -> st.SearchStrategy[Any]:
    """Requests of which every part may be wrong; some are good."""
    word = st.sampled_from(
        ["picture", "encoded", "pixel_values", "scores", "labels", "UINT8", "BYTES", "FP32", "defect", "", "é"]
    )
    number = st.one_of(
        st.sampled_from([0, 1, 2, 3, 4, 90, 120, 160, -1, 2**31, 2**63 - 1, -(2**63)]), st.integers(-5, 300)
    )
    parameter = st.one_of(
        st.builds(lambda v: {"int64_param": v}, number),
        st.builds(lambda v: {"string_param": v}, word),
        st.builds(lambda v: {"bool_param": v}, st.booleans()),
        st.builds(lambda v: {"double_param": v}, st.floats()),
        st.builds(lambda v: {"uint64_param": v}, st.integers(0, 2**64 - 1)),
        st.just({}),
    )
    keys = st.sampled_from(
        [
            "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification",
            "timeout", "priority", "sequence_id", "triton_enable_empty_final_response", "binary_data",
        ]
    )  # fmt: skip
    parameters = st.dictionaries(keys, parameter, max_size=3)
    contents = st.fixed_dictionaries(
        {},
        optional={
            "uint_contents": st.lists(st.integers(0, 300), max_size=5),
            "bytes_contents": st.lists(st.binary(max_size=5), max_size=3),
            "fp32_contents": st.lists(st.floats(width=32), max_size=5),
            "bool_contents": st.lists(st.booleans(), max_size=2),
        },
    )
    tensors = st.fixed_dictionaries(
        {"name": word, "datatype": word, "shape": st.one_of(st.just([1, 90, 120, 3]), st.lists(number, max_size=5))},
        optional={"parameters": parameters, "contents": contents},
    )
    data = st.one_of(st.just(SHOT.tobytes()), st.binary(max_size=40), st.just(b"\4\0\0\0abcd"))
    outputs = st.fixed_dictionaries({"name": word}, optional={"parameters": parameters})
    return st.fixed_dictionaries(
        {
            "model_name": st.sampled_from(["defect", "defect", "defect@live", "weather", "@", "", "a" * 200]),
            "inputs": st.lists(tensors, max_size=2),
        },
        optional={
            "model_version": st.sampled_from(["", "1", "9", "x", "-1"]),
            "id": word,
            "parameters": parameters,
            "outputs": st.lists(outputs, max_size=3),
            "raw_input_contents": st.lists(data, max_size=2),
        },
    ).map(lambda fields: service_pb2.ModelInferRequest(**fields))


def near(change: int, request: Any) -> Any:
    """A request as it is, or a good one with a part of it."""
    if change == 0:
        return request
    good = raw_request([SHOT])
    for number, part in enumerate(("inputs", "outputs", "parameters", "raw_input_contents"), 1):
        if change == number and part != "parameters":
            good.ClearField(part)
            getattr(good, part).extend(getattr(request, part))
        elif change == number:
            _merge(good, request)
    return good


def _merge(good: Any, request: Any) -> None:
    for key in request.parameters:
        good.parameters[key].CopyFrom(request.parameters[key])


@pytest.fixture(scope="module")
def asked(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Answers requests, one server for all of them: the status code and the sentence, or the response."""
    loop = Loop()
    folder = tmp_path_factory.mktemp("asked")
    opened = loop.run(_open(kit, folder))
    context, live = opened

    async def ask(request: Any) -> tuple[Any, str]:
        service = service_pb2_grpc.GRPCInferenceServiceStub(live.channel)
        try:
            return await service.ModelInfer(request, timeout=60), ""
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""

    yield lambda request: loop.run(ask(request))
    expected = loop.run(own_scores(live, SHOT))
    assert expected == pytest.approx(kit.defect[0].scores(SHOT), abs=1e-4)
    loop.run(context.__aexit__(None, None, None))
    loop.close()


async def _open(kit: Kit, folder: Path) -> tuple[Any, Served]:
    context = serving(kit, folder / "data")
    live = await context.__aenter__()
    await live.client.register(kit.defect[0].folder, alias="live")
    return context, live


ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(near, st.integers(0, 4), messages()))
def test_any_request_is_answered_or_refused_with_a_sentence(asked: Any, sent: Any) -> None:
    found, sentence = asked(sent)
    if isinstance(found, grpc.StatusCode):
        assert found in ALLOWED, (found, sentence)
        assert " Fix: " in sentence
    else:
        assert found.model_version == "1"
