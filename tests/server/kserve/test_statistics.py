"""Statistics: counted as it was, request by request."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from factories import pictures
from kserving import raw_request, shots_of, stub, triton_refused
from lensmount_server.frames import Answer, Ran, VersionId
from lensmount_server.kserve.statistics import Statistics, Times
from serving import Kit, Served, refused

SHOTS = pictures(5, seed=12)
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


async def stats(client: Any, model: str = "defect", version: str = "") -> Any:
    (found,) = (await client.get_inference_statistics(model, version)).model_stats
    return found


async def test_nothing_yet(client: Any) -> None:
    found = await stats(client)
    assert (found.name, found.version, found.inference_count, found.last_inference) == ("defect", "1", 0, 0)
    every = (await client.get_inference_statistics()).model_stats
    assert [(each.name, each.version) for each in every] == [("defect", "1"), ("grade", "1"), ("surface", "1")]
    assert not any(each.inference_count or each.inference_stats.success.count for each in every)
    assert all(each.inference_stats.HasField("queue") for each in every)


async def test_requests_pictures_and_times(client: Any) -> None:
    start = time.perf_counter_ns()
    for shots in (SHOTS[:1], SHOTS[:3], SHOTS[:1]):
        await client.infer("defect", shots_of(*shots))
    spent = time.perf_counter_ns() - start
    found = await stats(client)
    assert (found.inference_count, found.inference_stats.success.count, found.inference_stats.fail.count) == (5, 3, 0)
    assert 3 <= found.execution_count <= 5
    assert abs(found.last_inference - time.time() * 1e3) < 60_000
    sums = [getattr(found.inference_stats, part) for part in PARTS]
    assert [each.count for each in sums] == [3] * 4
    assert 0 < sum(each.ns for each in sums) <= found.inference_stats.success.ns <= spent
    assert found.inference_stats.compute_infer.ns > 0
    assert sum(batch.compute_infer.count for batch in found.batch_stats) == found.execution_count
    assert sum(batch.compute_input.count for batch in found.batch_stats) == 3
    assert found.inference_stats.cache_hit.count == 0


async def test_failures_are_those_of_their_model(live: Served, client: Any) -> None:
    for model in ("defect", "weather"):
        request = raw_request(SHOTS[:1], model)
        request.raw_input_contents[0] = b"short"
        await refused(stub(live).ModelInfer(request))
    found = await stats(client)
    assert (found.inference_stats.fail.count, found.inference_stats.success.count, found.inference_count) == (1, 0, 0)
    assert found.inference_stats.fail.ns > 0
    every = (await client.get_inference_statistics()).model_stats
    assert [(each.name, each.inference_stats.fail.count) for each in every] == [
        ("defect", 1), ("grade", 0), ("surface", 0),
    ]  # fmt: skip


async def test_by_version_and_by_alias(live: Served, kit: Kit, client: Any) -> None:
    await live.client.register(kit.defect[1].folder, alias="canary")
    for model, version, times in (("defect", "", 1), ("defect", "2", 2), ("defect@canary", "", 3), ("surface", "", 4)):
        for _ in range(times):
            await client.infer(model, shots_of(SHOTS[0]), model_version=version)
    every = {
        (each.name, each.version): each.inference_count
        for each in (await client.get_inference_statistics()).model_stats
    }
    counts = {("defect", "1"): 1, ("defect", "2"): 2, ("defect@canary", "2"): 3, ("surface", "1"): 4}
    assert every == counts | {("grade", "1"): 0}
    assert (await stats(client, "defect", "2")).inference_count == 2
    await triton_refused(client.get_inference_statistics("defect", "7"), "INVALID_ARGUMENT")


async def test_requests_side_by_side_share_executions(client: Any) -> None:
    await asyncio.gather(*(client.infer("defect", shots_of(SHOTS[0])) for _ in range(40)))
    found = await stats(client)
    assert (found.inference_count, found.inference_stats.success.count) == (40, 40)
    assert found.execution_count < 40
    sizes = {batch.batch_size: batch.compute_infer.count for batch in found.batch_stats}
    assert sum(size * count for size, count in sizes.items()) >= 40
    assert max(sizes) > 1


def answer(number: int, frames: int, milliseconds: float = 2.0) -> Answer:
    return Answer(VersionId("t", 1, "0"), ("a",), (1.0,), ("a",), 1.0, milliseconds, Ran(number, frames))


def test_a_batch_is_counted_once_whatever_the_order_of_its_requests() -> None:
    statistics = Statistics()
    key = ("t", 1)
    times = Times(0, 1_000_000, 9_000_000, 10_000_000)
    for answers in ([answer(2, 3)], [answer(1, 8), answer(2, 3)], [answer(1, 8)], [answer(3, 8)]):
        statistics.succeeded(key, times, answers)
    ((_, sums),) = statistics.of()
    assert (sums.inferences, sums.executions, sums.success.count, sums.success.ns) == (5, 3, 4, 40_000_000)
    assert {size: each.compute_infer.count for size, each in sums.sizes.items()} == {3: 1, 8: 2}
    assert sums.compute_infer.ns == 8_000_000
    assert sums.queue.ns == 4 * 6_000_000
