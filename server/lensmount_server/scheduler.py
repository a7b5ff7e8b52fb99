"""Opportunistic batching: whenever the engine is free it takes what waits, oldest first.

No artificial wait at low load, large batches at high load. The adapters of a frame are
looked up when its batch is formed, so an answer always comes from the version that was
live at that moment, whole.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from lensmount.errors import TooLargeError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.outcome import decide, probabilities
from lensmount_adapters.pictures import Pixels
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.defects import known
from lensmount_server.engine.runtime import Engine, Job
from lensmount_server.frames import Answer, Frame, VersionId, Want
from lensmount_server.mounts import Leases, Mounted, Mounts

MAX_BATCH = 8
MAX_WAITING = 1024

Prepared = Mapping[Preprocessing, Tensor]
Resolve = Callable[[Leases], tuple[Mounted, ...]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one waiting frame: the adapters that ran, their logits, the times in ms."""

    mounted: tuple[Mounted, ...]
    logits: list[Tensor]
    queue_ms: float
    inference_ms: float


@dataclass(frozen=True, eq=False)
class Waiting:
    """A frame in the queue; `resolve` is asked for its adapters when its batch is formed, which holds them."""

    pixels: Pixels
    prepared: Prepared
    resolve: Resolve
    future: asyncio.Future[Outcome]
    since: float = field(default_factory=time.perf_counter)


class Scheduler:
    """The queue in front of the one engine thread; lives on one event loop."""

    def __init__(self, engine: Engine, mounts: Mounts) -> None:
        self.engine = engine
        self._mounts = mounts
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._worker = asyncio.create_task(self._work(), name="scheduler")

    async def answer(self, frame: Frame, wants: Sequence[Want]) -> list[Answer]:
        """One answer per want, in order; raises NotFoundError for a task that is not live."""
        mounted = [self._mounts.resolve(want) for want in wants]
        prepared = await asyncio.to_thread(_prepare, frame.pixels, mounted)
        outcome = await self._run(frame.pixels, prepared, lambda leases: tuple(map(leases.resolve, wants)))
        return [
            _answer(mounted, logits, outcome) for mounted, logits in zip(outcome.mounted, outcome.logits, strict=True)
        ]

    async def logits(self, pixels: Pixels, adapter: Adapter) -> Tensor:
        """The logits (labels,) of one adapter that need not be live, through the same path."""
        mounted = (Mounted(VersionId(adapter.manifest.task, 0, adapter.content_hash), adapter),)
        prepared = await asyncio.to_thread(_prepare, pixels, mounted)
        return (await self._run(pixels, prepared, lambda _: mounted)).logits[0]

    async def close(self) -> None:
        """Finish the batch under way and refuse what still waits."""
        self._closed = True
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(UnavailableError("the server is stopping", fix="call again"))
        self._waiting.clear()
        self._arrived.set()
        await self._worker
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self, pixels: Pixels, prepared: Prepared, resolve: Resolve) -> Outcome:
        if self._closed:
            raise UnavailableError("the server is stopping", fix="call again")
        if len(self._waiting) >= MAX_WAITING:
            fix = "send fewer frames, or let the stream drop them: drop_policy NEWEST"
            raise TooLargeError("too many frames wait for the engine", value=len(self._waiting), fix=fix)
        waiting = Waiting(pixels, prepared, resolve, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.future

    async def _work(self) -> None:
        while not self._closed:
            await self._arrived.wait()
            with self._mounts.leases() as leases:
                batch = self._take(leases)
                if batch:
                    await self._run_batch(batch)

    def _take(self, leases: Leases) -> list[tuple[Waiting, tuple[Mounted, ...]]]:
        """The oldest frames whose adapters are there; a frame whose are not fails by itself."""
        batch: list[tuple[Waiting, tuple[Mounted, ...]]] = []
        while self._waiting and len(batch) < MAX_BATCH:
            waiting = self._waiting.popleft()
            if waiting.future.done():
                continue
            try:
                batch.append((waiting, waiting.resolve(leases)))
            except Exception as error:  # noqa: BLE001 - whatever it is must reach its caller, not end the loop
                waiting.future.set_exception(known(error))
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _run_batch(self, batch: list[tuple[Waiting, tuple[Mounted, ...]]]) -> None:
        start = time.perf_counter()
        jobs = [Job(w.pixels, tuple(m.adapter for m in mounted), w.prepared) for w, mounted in batch]
        try:
            logits = await asyncio.get_running_loop().run_in_executor(self._thread, self.engine.run, jobs)
            pairs = list(zip(batch, logits, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever torch raises must reach the callers, not end the loop
            await self._contain(batch, error)
            return
        spent = (time.perf_counter() - start) * 1e3
        for (waiting, mounted), rows in pairs:
            if not waiting.future.done():
                waiting.future.set_result(Outcome(mounted, rows, (start - waiting.since) * 1e3, spent))

    async def _contain(self, batch: list[tuple[Waiting, tuple[Mounted, ...]]], error: Exception) -> None:
        """Run a failed batch's frames one by one, so that only the culprit's caller is told."""
        if len(batch) > 1:
            for alone in batch:
                await self._run_batch([alone])
            return
        ((waiting, _),) = batch
        if not waiting.future.done():
            waiting.future.set_exception(known(error))


def _prepare(pixels: Pixels, mounted: Sequence[Mounted]) -> Prepared:
    return {wanted: wanted.prepare(pixels) for wanted in {m.adapter.manifest.preprocessing for m in mounted}}


def _answer(mounted: Mounted, logits: Tensor, outcome: Outcome) -> Answer:
    manifest = mounted.adapter.manifest
    scores = tuple(probabilities(manifest, logits).tolist())
    return Answer(
        adapter=mounted.id,
        labels=tuple(manifest.labels),
        scores=scores,
        decision=decide(manifest, scores),
        queue_ms=outcome.queue_ms,
        inference_ms=outcome.inference_ms,
    )
