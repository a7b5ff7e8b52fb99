"""Results fan out here: one bounded queue per subscriber, and nobody waits for anybody.

A subscriber that reads too slowly loses its own oldest results and is told how many
with its next item. State changes of sources are queued beside the results, so that a
flood of results does not wash away the news that a source has failed.

The hub belongs to one event loop; all calls come from its thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from lensmount.errors import InvalidInputError, NotFoundError
from lensmount_server.sources.model import SourceStatus
from lensmount_server.streams import StreamResult

MAX_QUEUE = 10_000
# Whoever wants the pictures too holds whole frames, some megabytes each.
MAX_QUEUE_WITH_FRAMES = 16

Message = StreamResult | SourceStatus


@dataclass(frozen=True)
class HubItem:
    """A result or a source's new state; `lost` results were lost since the item before."""

    message: Message
    lost: int


class Subscription:
    """What one subscriber wants and what waits for it: an asynchronous iterator of `HubItem`.

    It ends when `close` was called or when every source that it named has been removed; with NotFoundError when
    every task that it named was deleted.
    """

    def __init__(self, sources: Iterable[str], tasks: Iterable[str], queue_size: int, *, with_frames: bool) -> None:
        self._sources = set(sources)
        self._tasks = set(tasks)
        self._every_task = not self._tasks
        self._error: NotFoundError | None = None
        self._everything = not self._sources
        self._with_frames = with_frames
        self._size = min(queue_size, MAX_QUEUE_WITH_FRAMES) if with_frames else queue_size
        self._order = count()
        self._results: deque[tuple[int, StreamResult]] = deque()
        self._states: deque[tuple[int, SourceStatus]] = deque(maxlen=self._size)
        self._lost = 0
        self._closed = False
        self._arrived = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more will be queued."""
        return self._closed

    def close(self) -> None:
        """Ends the subscription; what is queued can still be read."""
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[HubItem]:
        return self

    async def __anext__(self) -> HubItem:
        while not (self._results or self._states):
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        lost, self._lost = self._lost, 0
        return HubItem(self._pop(), lost)

    def wants_frames(self, source: str) -> bool:
        """Whether it asked for the pictures of this source too."""
        return self._with_frames and self._wants(source)

    def add_result(self, result: StreamResult, without_frame: StreamResult) -> None:
        """Queues a result that passes the filters, at the expense of the oldest one when the queue is full."""
        if not self._wants(result.source) or not self._wants_task(result.answer.adapter.task):
            return
        if len(self._results) >= self._size:
            self._results.popleft()
            self._lost += 1
        self._results.append((next(self._order), result if self._with_frames else without_frame))
        self._arrived.set()

    def add_state(self, status: SourceStatus) -> None:
        """Queues a state change of a source that passes the filter."""
        if self._wants(status.spec.name):
            self._states.append((next(self._order), status))
            self._arrived.set()

    def forget(self, source: str) -> None:
        """A source was removed: one fewer to wait for."""
        self._sources.discard(source)
        if not self._sources and not self._everything:
            self.close()

    def end_task(self, task: str) -> None:
        """A task was deleted: one fewer to wait for."""
        if task in self._tasks:
            self._tasks.discard(task)
            if not self._tasks:
                fix = "watch another task; `lensmount adapters list` shows what there is"
                self._error = NotFoundError("this task was deleted", field="tasks", value=task, fix=fix)
                self.close()

    def _wants_task(self, task: str) -> bool:
        return self._every_task or task in self._tasks

    def _wants(self, source: str) -> bool:
        return not self._closed and (self._everything or source in self._sources)

    def _pop(self) -> Message:
        if not self._states or (self._results and self._results[0][0] < self._states[0][0]):
            return self._results.popleft()[1]
        return self._states.popleft()[1]


class Hub:
    """Gives every result and every state change to the subscribers that want it. Publishing never waits."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(
        self,
        sources: Iterable[str] = (),
        tasks: Iterable[str] = (),
        queue_size: int = 256,
        *,
        with_frames: bool = False,
    ) -> Iterator[Subscription]:
        """Subscribes to these sources and tasks, all when empty, for the duration of a `with` block.

        `queue_size` is the number of results that may wait, 1 to 10000, at most 16 of them
        `with_frames`. Raises InvalidInputError outside that range.
        """
        if not 1 <= queue_size <= MAX_QUEUE:
            fix = f"use 1 to {MAX_QUEUE}"
            raise InvalidInputError("no such queue", field="queue_size", value=queue_size, fix=fix)
        subscription = Subscription(sources, tasks, queue_size, with_frames=with_frames)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def wants_frames(self, source: str) -> bool:
        """Whether anybody wants the pictures of this source beside its results."""
        return any(subscription.wants_frames(source) for subscription in self._subscriptions)

    def publish(self, result: StreamResult) -> None:
        """Hands a result to all who want it."""
        without_frame = replace(result, frame=None)
        for subscription in self._subscriptions:
            subscription.add_result(result, without_frame)

    def announce(self, status: SourceStatus) -> None:
        """Hands a source's new state to all who want it."""
        for subscription in self._subscriptions:
            subscription.add_state(status)

    def forget(self, source: str) -> None:
        """Ends the subscriptions that waited for this source alone."""
        for subscription in self._subscriptions:
            subscription.forget(source)

    def end_task(self, task: str) -> None:
        """Ends the subscriptions that named this task alone, with NotFoundError."""
        for subscription in self._subscriptions:
            subscription.end_task(task)

    def close(self) -> None:
        """Ends all subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
