"""ModelStreamInfer: computed side by side, answered in order, each response with its id, errors in their places."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from factories import pictures
from kserving import blocking, own_scores, raw_request, shots_of, stub
from lensmount.errors import InvalidInputError
from lensmount_server.kserve.streaming import MAX_UNDER_WAY, answered
from serving import PATIENCE_S, Served, eventually, own_tasks

SHOTS = pictures(4, seed=12)


async def test_the_asynchronous_client(live: Served, client: Any) -> None:
    expected = [await own_scores(live, each) for each in SHOTS]

    async def asked() -> AsyncIterator[dict[str, Any]]:
        for number in range(24):
            inputs = shots_of(SHOTS[number % 4])
            yield {"model_name": "defect", "inputs": inputs, "request_id": str(number)}

    found = []
    async for result, error in client.stream_infer(asked()):
        assert error is None
        response = result.get_response()
        found.append(response.id)
        np.testing.assert_allclose(result.as_numpy("scores")[0], expected[len(found[1:]) % 4], rtol=0, atol=1e-6)
        assert response.parameters["triton_final_response"].bool_param
    assert found == [str(number) for number in range(24)]


async def test_the_blocking_client(live: Served) -> None:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def run() -> list[tuple[Any, Any]]:
        client = triton.InferenceServerClient(live.address)
        client.start_stream(lambda result, error: came.put((result, error)))
        for model in ("defect", "weather", "surface"):
            client.async_stream_infer(model, shots_of(SHOTS[0]), request_id=model, enable_empty_final_response=True)
        found = [came.get(timeout=PATIENCE_S) for _ in range(3)]
        client.stop_stream()
        client.close()
        return found

    found = await blocking(run)
    good = {result.get_response().id: result.get_response() for result, error in found if error is None}
    assert list(good) == ["defect", "surface"]
    error = found[1][1]
    assert all(response.parameters["triton_final_response"].bool_param for response in good.values())
    assert error.message().startswith("[request id: weather] tasks: no such task is live")
    assert " Fix: " in error.message()


async def test_what_is_wrong_with_one_request_ends_no_other(live: Served) -> None:
    good, bad = raw_request(SHOTS[:1], id="good"), raw_request(SHOTS[:1], id="bad")
    bad.raw_input_contents[0] = b"short"
    call = stub(live).ModelStreamInfer(iter([good, bad, raw_request(SHOTS[:1], "weather"), good]))
    found = [response async for response in call]
    assert [response.infer_response.id for response in found] == ["good", "bad", "", "good"]
    assert all(response.infer_response.parameters["triton_final_response"].bool_param for response in found)
    wrong = {response.infer_response.id: response.error_message for response in found if response.error_message}
    assert "wrong number of bytes" in wrong["bad"]
    assert "no such task is live" in wrong[""]
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_that_its_client_leaves_is_given_up(live: Served) -> None:
    before = own_tasks()
    waits = asyncio.Event()

    async def asked() -> AsyncIterator[Any]:
        for number in range(40):
            yield raw_request(SHOTS, id=str(number))
        await waits.wait()

    call = stub(live).ModelStreamInfer(asked())
    await asyncio.wait_for(call.read(), PATIENCE_S)
    call.cancel()
    waits.set()
    await eventually(lambda: len(own_tasks() - before) == 0, "all tasks of the stream have ended")
    assert len(await own_scores(live, SHOTS[0])) == 3


class Counted:
    """Answers that wait until they are let go, and how many did at most."""

    def __init__(self) -> None:
        self.now = self.most = self.read = 0
        self.go = asyncio.Event()

    async def requests(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.read += 1
            yield number

    async def answer(self, request: int) -> int:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        return request


async def test_so_many_are_under_way_and_no_more_are_read() -> None:
    counted = Counted()
    responses = answered(counted.requests(200), counted.answer)
    first = asyncio.ensure_future(anext(responses))
    await eventually(lambda: counted.now == MAX_UNDER_WAY, "as many as may be are under way")
    for _ in range(20):
        await asyncio.sleep(0)
    assert (counted.most, counted.read) == (MAX_UNDER_WAY, MAX_UNDER_WAY + 1)
    counted.go.set()
    assert {await first, *[each async for each in responses]} == set(range(200))
    assert counted.most == MAX_UNDER_WAY


async def test_all_are_computed_side_by_side_and_answered_in_order() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    done: list[int] = []

    async def answer(number: int) -> int:
        await gates[number].wait()
        done.append(number)
        return number

    responses = answered(several(3), answer)
    first = asyncio.ensure_future(anext(responses))
    for number in (2, 1):
        gates[number].set()
        await eventually(partial(done.__contains__, number), "it is computed before its turn")
    assert not first.done()
    gates[0].set()
    assert [await first, *[each async for each in responses]] == [0, 1, 2]
    assert done == [2, 1, 0]


async def test_a_slow_request_is_answered_before_those_behind_it(live: Served) -> None:
    many = raw_request([SHOTS[number % 4] for number in range(100)], id="many")
    one = raw_request(SHOTS[:1], id="one")
    wrong = raw_request(SHOTS[:1], "weather", id="wrong")
    call = stub(live).ModelStreamInfer(iter([many, one, wrong, one]))
    assert [response.infer_response.id async for response in call] == ["many", "one", "wrong", "one"]


async def several(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_requests_that_fail_end_the_stream_behind_what_came_before() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise InvalidInputError("no message")

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return number

    responses = answered(numbers(), answer)
    assert await anext(responses) == 1
    with pytest.raises(InvalidInputError):
        await anext(responses)


async def test_an_answer_that_fails_gives_up_the_others() -> None:
    before = own_tasks()

    async def answer(number: int) -> int:
        if number:
            await asyncio.Event().wait()
        raise InvalidInputError("no answer")

    with pytest.raises(InvalidInputError):
        await anext(answered(several(5), answer))
    assert own_tasks() == before
