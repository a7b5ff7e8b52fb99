"""Deadlines, priorities and callers that go away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from factories import pictures
from kserving import raw_request, shots_of, stub, triton_refused
from lensmount.errors import InvalidInputError
from lensmount_server.kserve.parameters import terms
from lensmount_server.scheduling import Terms
from serving import Served

SHOTS = pictures(4, seed=12)


def parameters(**given: Any) -> Any:
    request = service_pb2.ModelInferRequest()
    for name, value in given.items():
        request.parameters[name].int64_param = value
    return request.parameters


def test_the_shorter_time_counts() -> None:
    assert terms({}, "me", None) == Terms("me", 0, None)
    assert terms({}, "me", 2.0) == Terms("me", 0, 2.0)
    assert terms(parameters(timeout=1_500_000), "me", None) == Terms("me", 0, 1.5)
    assert terms(parameters(timeout=1_500_000), "me", 1.0) == Terms("me", 0, 1.0)
    assert terms(parameters(timeout=500_000), "me", 1.0) == Terms("me", 0, 0.5)
    assert terms(parameters(timeout=0), "me", 1.0) == Terms("me", 0, 1.0)


@pytest.mark.parametrize(("given", "ours"), [(0, 0), (1, 10), (2, 9), (10, 1), (11, 0), (12, -1), (21, -10)])
def test_priorities_are_as_triton_has_them(given: int, ours: int) -> None:
    assert terms(parameters(priority=given), "me", None).priority == ours


@pytest.mark.parametrize("priority", [-1, 22, 2**62])
def test_priorities_that_are_none(priority: int) -> None:
    with pytest.raises(InvalidInputError):
        terms(parameters(priority=priority), "me", None)


async def test_a_timeout_that_can_not_be_kept(client: Any) -> None:
    assert (await client.infer("defect", shots_of(SHOTS[0]), timeout=60_000_000)).get_response().model_version == "1"
    sentence = await triton_refused(client.infer("defect", shots_of(SHOTS[0]), timeout=1), "DEADLINE_EXCEEDED")
    assert "can not be answered in time" in sentence


async def test_a_call_without_the_time_for_it(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("defect", shots_of(SHOTS[0]), client_timeout=1e-4)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


async def test_who_goes_away_leaves_nothing_behind(live: Served, client: Any) -> None:
    """Its pictures are withdrawn: fewer of them are looked at than were sent, and the failure is counted."""
    many = raw_request([SHOTS[number % 4] for number in range(200)])
    before = await rows(live)
    call = stub(live).ModelInfer(many)
    for _ in range(1000):
        if await rows(live) > before:
            break
        await asyncio.sleep(0.002)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    for _ in range(1000):
        (found,) = (await client.get_inference_statistics("defect")).model_stats
        if found.inference_stats.fail.count:
            break
        await asyncio.sleep(0.01)
    assert (found.inference_stats.fail.count, found.inference_count) == (1, 0)
    assert (await client.infer("defect", shots_of(SHOTS[0]))).as_numpy("scores").shape == (1, 3)
    assert 0 < await rows(live) - before < 201


async def rows(live: Served) -> int:
    return (await live.client.info()).engine.rows
