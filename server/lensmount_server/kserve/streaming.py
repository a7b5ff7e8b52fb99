"""ModelStreamInfer: requests of one stream answered side by side, each response as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

# Requests of one stream that are under way; the next is read when one of them is answered.
MAX_UNDER_WAY = 64

Answer = Callable[[Any], Awaitable[Any]]


async def answered(requests: AsyncIterator[Any], answer: Answer) -> AsyncGenerator[Any, None]:
    """What `answer` gives for each request, as it comes; responses may overtake each other.

    What is under way when the generator is closed is given up. Raises what `requests` raises, and what `answer` does.
    """
    room, ready = asyncio.Semaphore(MAX_UNDER_WAY), asyncio.Queue[asyncio.Task[Any]]()
    under_way: set[asyncio.Task[Any]] = set()

    async def receive() -> None:
        async for request in requests:
            await room.acquire()
            task = asyncio.ensure_future(answer(request))
            under_way.add(task)
            task.add_done_callback(ready.put_nowait)

    receiving = asyncio.create_task(receive())
    receiving.add_done_callback(ready.put_nowait)
    try:
        while under_way or not receiving.done() or not ready.empty():
            task = await ready.get()
            made = await task
            if task is receiving:
                continue
            under_way.discard(task)
            room.release()
            yield made
    finally:
        for task in (receiving, *under_way):
            task.cancel()
        await asyncio.gather(receiving, *under_way, return_exceptions=True)
