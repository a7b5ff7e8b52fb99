"""An asynchronous client in blocking dress, so that one test serves both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def close(self) -> None:
        self.run(self._loop.shutdown_asyncgens())
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class Blocking:
    """Something asynchronous with the blocking face of its twin, so that one test serves both."""

    def __init__(self, loop: Loop, target: Any) -> None:
        self._loop = loop
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        return self._call(attribute) if callable(attribute) else attribute

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._target)
        try:
            while (item := self._loop.run(_next(items))) is not None:
                yield item
        finally:
            self._loop.run(items.aclose())

    def __next__(self) -> Any:
        item = self._loop.run(_next(self._target))
        if item is None:
            raise StopIteration
        return item

    def __enter__(self) -> Self:
        self._loop.run(self._target.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._target.__aexit__(kind, error, trace))

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            value = function(*args, **kwargs)
            if asyncio.iscoroutine(value):
                return self._loop.run(value)
            return Blocking(self._loop, value) if hasattr(value, "__anext__") else value

        return call


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
