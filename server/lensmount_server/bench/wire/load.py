"""The load generator, a process of its own and the same for every server.

`python -m lensmount_server.bench.wire.load FILE` reads one order a line, and writes one finding a line. FILE holds the
pictures, uint8 (pictures, height, width, 3), and what each must be answered, float32 (pictures, labels).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient

INPUT, OUTPUT = "picture", "scores"
# How far a score may be from what another process computes, in half the digits.
TOLERANCE = 0.02
LIMIT_S = 120.0


@dataclass(frozen=True)
class Order:
    """So many requests to a model, so many of them under way; on one stream, or a call each."""

    url: str
    model: str
    stream: bool
    in_flight: int
    requests: int


@dataclass
class Finding:
    """How long all took, how long each, and how many answers were wrong."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    wrong: int = 0


class Load:
    """Sends pictures in turn, and looks at every answer."""

    def __init__(self, pictures: Any, expected: Any) -> None:
        self._expected = expected
        self._inputs = [_input(picture) for picture in pictures]
        self._outputs = [InferRequestedOutput(OUTPUT)]
        self._clients: dict[str, InferenceServerClient] = {}

    async def run(self, order: Order) -> Finding:
        """Carry out an order."""
        if order.url not in self._clients:
            self._clients[order.url] = InferenceServerClient(order.url)
        client, found = self._clients[order.url], Finding()
        start = time.perf_counter()
        async with asyncio.timeout(LIMIT_S):
            await (self._stream if order.stream else self._calls)(client, order, found)
        found.seconds = time.perf_counter() - start
        return found

    async def close(self) -> None:
        """Hang up."""
        for client in self._clients.values():
            await client.close()

    async def _calls(self, client: InferenceServerClient, order: Order, found: Finding) -> None:
        numbers = iter(range(order.requests))

        async def work() -> None:
            for number in numbers:
                start, own = time.perf_counter(), number % len(self._inputs)
                answer = await client.infer(order.model, self._inputs[own], outputs=self._outputs)
                self._note(found, start, own, answer)

        async with asyncio.TaskGroup() as workers:
            for _ in range(order.in_flight):
                workers.create_task(work())

    async def _stream(self, client: InferenceServerClient, order: Order, found: Finding) -> None:
        sent: dict[str, tuple[float, int]] = {}
        room = asyncio.Semaphore(order.in_flight)

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(order.requests):
                await room.acquire()
                own = number % len(self._inputs)
                sent[str(number)] = time.perf_counter(), own
                yield {
                    "model_name": order.model,
                    "inputs": self._inputs[own],
                    "outputs": self._outputs,
                    "request_id": str(number),
                }

        async for answer, error in client.stream_infer(requests()):
            if error is not None:
                raise error
            self._note(found, *sent.pop(answer.get_response().id), answer)
            room.release()
            if len(found.latencies_ms) == order.requests:
                break

    def _note(self, found: Finding, start: float, own: int, answer: Any) -> None:
        found.latencies_ms.append((time.perf_counter() - start) * 1e3)
        scores = answer.as_numpy(OUTPUT).reshape(-1)
        found.wrong += not (scores.shape == self._expected[own].shape and self._is_right(scores, own))

    def _is_right(self, scores: Any, own: int) -> bool:
        """Whether it is near what this picture must be answered, and nearer than to any other's answer."""
        away = np.abs(self._expected - scores).max(1)
        return bool(away.argmin() == own and away[own] <= TOLERANCE)


def _input(picture: Any) -> list[InferInput]:
    made = InferInput(INPUT, [1, *picture.shape], "UINT8")
    made.set_data_from_numpy(picture[None])
    return [made]


async def _main(file: str) -> None:
    with np.load(file) as held:
        load = Load(held["pictures"], held["expected"])
    for line in iter(sys.stdin.readline, ""):
        found = await load.run(Order(**json.loads(line)))
        print(json.dumps(asdict(found)), flush=True)
    await load.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
