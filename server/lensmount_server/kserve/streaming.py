"""ModelStreamInfer: requests of one stream computed side by side, answered in the order in which they came.

Clients match by place as well as by id: Triton keeps this order whatever is ready first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

# Requests of one stream that are under way; the next is read when the oldest of them is answered.
MAX_UNDER_WAY = 64

Answer = Callable[[Any], Awaitable[Any]]


async def answered(requests: AsyncIterator[Any], answer: Answer) -> AsyncGenerator[Any, None]:
    """What `answer` gives for each request, in the order of the requests; they run side by side.

    What is under way when the generator is closed is given up. Raises what `requests` raises once all before it is
    answered, and what `answer` does.
    """
    room, under_way = asyncio.Semaphore(MAX_UNDER_WAY), asyncio.Queue[asyncio.Future[Any]]()

    async def receive() -> None:
        async for request in requests:
            await room.acquire()
            under_way.put_nowait(asyncio.ensure_future(answer(request)))

    receiving = asyncio.create_task(receive())
    receiving.add_done_callback(under_way.put_nowait)  # behind the last request
    try:
        while True:
            oldest = await under_way.get()
            made = await oldest
            if oldest is receiving:
                return
            room.release()
            yield made
    finally:
        receiving.cancel()
        left = [receiving, *(under_way.get_nowait() for _ in range(under_way.qsize()))]
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
