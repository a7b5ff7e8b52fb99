"""NVIDIA's load generator against this front, as it comes."""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import pytest

from lensmount_server.bench.wire.analyzer import Analyzer, find
from serving import Kit, Served
from triton_server import HOME

pytestmark = pytest.mark.triton

# So many requests, however long they take: what is asked is whether it works, not how fast.
COUNT = 40
MEASURE = ("--request-count", str(COUNT), "-s", "99", "--concurrency-range", "4")

WAYS = {
    "unary": ("--async",),
    "streaming": ("--streaming", "--async"),
    "shared memory": ("--shared-memory=system", "--output-shared-memory-size", "4096"),
}


@functools.cache
def installed() -> Analyzer | None:
    return find(HOME)


@pytest.fixture
def analyzer() -> Analyzer:
    found = installed()
    if found is None:
        pytest.skip("no perf_analyzer that runs here: run tests/install-triton")
    return found


@pytest.mark.parametrize("way", WAYS)
async def test_it_measures(analyzer: Analyzer, live: Served, kit: Kit, client: Any, way: str) -> None:
    await live.client.register(kit.defect[1].folder)
    model = ("-m", "defect/picture", "--shape", "picture:160,160,3")
    arguments = ("-i", "grpc", "-u", live.address, *model, *MEASURE, *WAYS[way])
    done = await asyncio.to_thread(analyzer.call, *arguments)
    assert done.returncode == 0, done.stdout
    rate = re.search(r"Throughput: ([0-9.]+) infer/sec", done.stdout)
    assert rate, done.stdout
    assert float(rate[1]) > 0
    (found,) = (await client.get_inference_statistics("defect")).model_stats
    assert (found.version, found.inference_stats.fail.count) == ("1", 0)
    assert found.inference_stats.success.count >= COUNT
    assert not (await client.get_system_shared_memory_status()).regions


async def test_a_model_that_is_not_there_is_told(analyzer: Analyzer, live: Served) -> None:
    done = await asyncio.to_thread(analyzer.call, "-i", "grpc", "-u", live.address, "-m", "weather", *MEASURE)
    assert done.returncode != 0
    assert "no such task is live" in done.stdout
