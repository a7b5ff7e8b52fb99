"""The sources of a server: added, changed, paused and removed while others run, and remembered over restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

from lensmount.errors import AlreadyExistsError, LensmountError, NotFoundError, UnavailableError
from lensmount_server.hub import Hub
from lensmount_server.sources.connecting import SourceOptions, check
from lensmount_server.sources.model import SourceSpec, SourceStatus
from lensmount_server.sources.source import Pin, Source, SourceAnswerer, Surroundings
from lensmount_server.workers.pool import WorkerPool

logger = logging.getLogger(__name__)


class Store(Protocol):
    """Remembers specifications."""

    def load(self) -> list[SourceSpec]:
        """All of them. Blocks; raises UnavailableError."""
        ...

    def save(self, specs: Iterable[SourceSpec]) -> None:
        """Replaces them. Blocks; raises UnavailableError."""
        ...


class Forgetful:
    """A store for servers that shall not remember."""

    def load(self) -> list[SourceSpec]:
        """Nothing."""
        return []

    def save(self, specs: Iterable[SourceSpec]) -> None:
        """Nothing."""


class SourceManager:
    """Adds, changes, lists and removes sources; their results and state changes go to the hub.

    It belongs to one event loop; all calls come from its thread. `pin` keeps the adapters of
    a source in memory while it runs. What is changed is on the disk before it happens.
    """

    def __init__(
        self,
        answerer: SourceAnswerer,
        hub: Hub,
        pool: WorkerPool,
        options: SourceOptions | None = None,
        pin: Pin = lambda _: nullcontext(),
        store: Store | None = None,
    ) -> None:
        self._around = Surroundings(answerer, hub, pool, options or SourceOptions(), pin)
        self._store = store or Forgetful()
        self._sources: dict[str, Source] = {}
        self._changing = asyncio.Lock()
        self._closed = False

    async def restore(self) -> None:
        """Starts what was there when the server ended; a source that can not work any more says why."""
        for spec in await asyncio.to_thread(self._store.load):
            self._start(spec)

    async def add(self, spec: SourceSpec) -> SourceStatus:
        """Starts a source and returns while it connects.

        Raises InvalidInputError for a specification that can not work, AlreadyExistsError when the name is taken,
        UnavailableError after `close` or when it can not be remembered.
        """
        check(spec, self._around.options)
        async with self._changing:
            if self._closed:
                raise UnavailableError("the server is stopping", fix="try again when it is back")
            if spec.name in self._sources:
                fix = "choose another name, update that source, or remove it first"
                raise AlreadyExistsError("there is a source of that name", field="name", value=spec.name, fix=fix)
            await self._remember({spec.name: spec})
            return self._start(spec).status()

    async def update(self, name: str, change: Callable[[SourceSpec], SourceSpec]) -> SourceStatus:
        """Gives a source another specification: what `change` makes of the one that it has then.

        Raises NotFoundError, what `change` raises, and as `add` does; then the source goes on as before.
        """
        async with self._changing:
            source = self._find(name)
            before, spec = source.spec, replace(change(source.spec), name=name)
            check(spec, self._around.options)
            await self._remember({name: spec})
            try:
                await source.update(spec)
            except LensmountError:
                await self._remember({name: before})
                raise
            return source.status()

    async def pause(self, name: str) -> SourceStatus:
        """Leaves the camera until `resume`. Raises NotFoundError or UnavailableError."""
        async with self._changing:
            source = self._find(name)
            await self._remember({name: replace(source.spec, paused=True)})
            await source.pause()
            return source.status()

    async def resume(self, name: str) -> SourceStatus:
        """Goes on after a pause, a failure or the end of a recording. Raises NotFoundError or UnavailableError."""
        async with self._changing:
            source = self._find(name)
            await self._remember({name: replace(source.spec, paused=False)})
            source.resume()
            return source.status()

    async def remove(self, name: str) -> None:
        """Stops a source and ends the subscriptions to it alone. Raises NotFoundError or UnavailableError."""
        async with self._changing:
            source = self._find(name)
            await self._remember({}, without=name)
            del self._sources[name]
            await source.stop()
            self._around.hub.forget(name)

    def list(self) -> list[SourceStatus]:
        """All sources, by name."""
        return [self._sources[name].status() for name in sorted(self._sources)]

    def get(self, name: str) -> SourceStatus:
        """One source. Raises NotFoundError."""
        return self._find(name).status()

    def spec(self, name: str) -> SourceSpec:
        """What a source was told, with its password. Raises NotFoundError."""
        return self._find(name).spec

    async def close(self) -> None:
        """Stops all sources, to be started again by `restore`; none can be added afterwards."""
        async with self._changing:
            self._closed = True
            sources, self._sources = self._sources, {}
            await asyncio.gather(*(source.stop() for source in sources.values()))

    def _start(self, spec: SourceSpec) -> Source:
        source = self._sources[spec.name] = Source(spec, self._around)
        source.start()
        return source

    async def _remember(self, changed: dict[str, SourceSpec], without: str = "") -> None:
        now = {name: source.spec for name, source in self._sources.items() if name != without}
        await asyncio.to_thread(self._store.save, [*{**now, **changed}.values()])

    def _find(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            fix = f"use one of: {', '.join(sorted(self._sources)) or 'none, add a source first'}"
            raise NotFoundError("no such source", field="name", value=name, fix=fix)
        return source
