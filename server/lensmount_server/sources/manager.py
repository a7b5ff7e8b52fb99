"""The sources of a server. They decode in threads of this process; worker processes come with a later release."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from lensmount.errors import AlreadyExistsError, NotFoundError, UnavailableError
from lensmount_server.hub import Hub
from lensmount_server.sources.model import SourceSpec, SourceStatus
from lensmount_server.sources.source import Pin, Source, SourceOptions
from lensmount_server.streams import Answerer


class SourceManager:
    """Adds, lists and removes sources; their results and state changes go to the hub.

    It belongs to one event loop; all calls come from its thread. `pin` keeps the adapters of
    a source in memory while it runs.
    """

    def __init__(
        self, answerer: Answerer, hub: Hub, options: SourceOptions | None = None, pin: Pin = lambda _: nullcontext()
    ) -> None:
        self._answerer = answerer
        self._hub = hub
        self._options = options or SourceOptions()
        self._pin = pin
        self._sources: dict[str, Source] = {}
        self._closed = False

    def add(self, spec: SourceSpec) -> SourceStatus:
        """Starts a source and returns at once, while it connects.

        Raises InvalidInputError for a name, wants or an address that can not work,
        AlreadyExistsError when the name is taken, UnavailableError after `close`.
        """
        if self._closed:
            raise UnavailableError("the server is stopping", fix="try again when it is back")
        if spec.name in self._sources:
            fix = "choose another name, or remove that source first"
            raise AlreadyExistsError("there is a source of that name", field="name", value=spec.name, fix=fix)
        source = Source(spec, self._answerer, self._hub, self._options, self._pin)
        self._sources[spec.name] = source
        source.start()
        return source.status()

    async def remove(self, name: str) -> None:
        """Stops a source and ends the subscriptions to it alone. Raises NotFoundError."""
        source = self._find(name)
        del self._sources[name]
        await source.stop()
        self._hub.forget(name)

    def list(self) -> list[SourceStatus]:
        """All sources, by name."""
        return [self._sources[name].status() for name in sorted(self._sources)]

    def get(self, name: str) -> SourceStatus:
        """One source. Raises NotFoundError."""
        return self._find(name).status()

    async def close(self) -> None:
        """Stops all sources; none can be added afterwards."""
        self._closed = True
        await asyncio.gather(*(self.remove(name) for name in tuple(self._sources)))

    def _find(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            fix = f"use one of: {', '.join(sorted(self._sources)) or 'none, add a source first'}"
            raise NotFoundError("no such source", field="name", value=name, fix=fix)
        return source
