"""How adapters come into memory and leave it, off the path that frames take.

For each version one thing happens at a time: it is loaded, tried out at registration, or
dropped, and whoever else wants it waits for that and for nothing else. A version is read
(from the host cache, or from the disk, where its hash must still hold), then warmed up by
the engine, and only then hot. One that can not be read or fails on the way goes into
quarantine; nobody but those who asked for it notices.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

import torch

from lensmount.errors import LensmountError, NotFoundError, TooLargeError, UnavailableError
from lensmount_adapters.adapter import Adapter
from lensmount_server.defects import known
from lensmount_server.frames import VersionId
from lensmount_server.hostcache import HostCache
from lensmount_server.hotset import HotSet, Mounted
from lensmount_server.quarantine import Quarantine
from lensmount_server.whereabouts import Place, ResidencyState, Whereabouts

T = TypeVar("T")

# Versions that are read and warmed at the same time.
LOADERS = 4
# Versions that are loaded or wait for it.
MAX_LOADING = 1024
# How long a promotion waits for the engine to be done with an adapter; it answers before that too.
SETTLE_S = 20.0
# Adapters are loaded beside the engine, not against it (nice(2)).
NICE = 10
HOST = torch.device("cpu")
# What may pass by itself: a package that is put back, memory that is free again.
PASSING = (NotFoundError, UnavailableError)


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Warmer(Protocol):
    """What the engine does when an adapter comes and goes. Both block and may be called from any thread."""

    def mount(self, adapter: Adapter) -> None:
        """Prepare an adapter so that its first row is no slower than the others; called before any of its rows.

        Raises LensmountError for an adapter that must not answer, UnavailableError for what may pass;
        nothing of it is left then.
        """
        ...

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Wait until an adapter that was mounted is as fast as it gets, at most so long."""
        ...

    def unmount(self, content_hash: str) -> None:
        """Forget an adapter that was mounted; called after the last of its rows."""
        ...


class Residency:
    """Loads and drops the adapters of a hot set; lives on the event loop, works in threads of its own.

    `read` gives a version's adapter from the disk, on `device`, or raises LensmountError; it blocks.
    """

    def __init__(
        self,
        hot: HotSet,
        warmer: Warmer,
        read: Callable[[VersionId], Adapter],
        device: torch.device = HOST,
        cache: HostCache | None = None,
    ) -> None:
        self._hot = hot
        self._warmer = warmer
        self._read = read
        self._device = device
        self._cache = HostCache() if cache is None else cache
        self._quarantine = Quarantine()
        self._threads = ThreadPoolExecutor(LOADERS, thread_name_prefix="loader", initializer=_step_back)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loading: dict[str, asyncio.Task[Mounted]] = {}
        self._leaving: dict[str, Mounted] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self._loads = 0
        self._closed = False
        hot.on_evicted = self._leave

    def state(self) -> ResidencyState:
        """A snapshot."""
        return ResidencyState(
            hot=len(self._hot),
            size_bytes=self._hot.size_bytes,
            leased=len(self._hot.leased),
            pinned=len(self._hot.pinned),
            cached=len(self._cache),
            cached_bytes=self._cache.size_bytes,
            loads=self._loads,
            evictions=self._hot.evictions,
            quarantined=len(self._quarantine),
        )

    def whereabouts(self, content_hash: str) -> Whereabouts:
        """Where a registered version is at this moment."""
        reason = self._quarantine.reason(content_hash)
        if self._present(content_hash):
            return Whereabouts(Place.HOT)
        if reason is not None:
            return Whereabouts(Place.QUARANTINED, f"{reason.message}; {reason.fix}")
        if content_hash in self._loading:
            return Whereabouts(Place.LOADING)
        return Whereabouts(Place.HOST_CACHED if content_hash in self._cache else Place.COLD)

    def hot(self) -> list[VersionId]:
        """What is in memory now."""
        return [mounted.id for mounted in self._hot]

    async def load(self, version: VersionId) -> Mounted:
        """A version that is hot: at once when it is, else after its one load, which all who ask for it share.

        Hold a lease on it meanwhile, or it may have left again. Raises IncompatibleError for a version in
        quarantine, NotFoundError for one whose package is gone, TooLargeError when too many are being loaded.
        """
        ready = self._ready(version)
        return ready if ready is not None else await asyncio.shield(self._flight(version))

    @asynccontextmanager
    async def trial(self, adapter: Adapter) -> AsyncIterator[None]:
        """While open, an adapter that is not registered yet is warm; unless it is kept, it is gone afterwards.

        Raises the error of an adapter that fails on warm-up.
        """
        content_hash = adapter.content_hash
        async with self._turn(content_hash):
            if not self._present(content_hash):
                await self._attempt(self._warmer.mount, adapter)
            try:
                await self.settle(content_hash)
                yield
            finally:
                if not self._present(content_hash):
                    await self.beside(self._warmer.unmount, content_hash)

    async def settle(self, content_hash: str) -> None:
        """Wait until a warm adapter is as fast as it gets: so that it is checked, and takes over, in that form."""
        await asyncio.to_thread(self._warmer.settle, content_hash, SETTLE_S)

    async def beside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call what blocks in a thread that steps back behind those that answer frames."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def keep(self, mounted: Mounted) -> None:
        """Make an adapter hot that passed its trial; whatever was wrong with its content before is mended."""
        self._quarantine.lift(mounted.id.content_hash)
        self._arrive(mounted)

    def lift(self, content_hash: str) -> None:
        """Take content out of quarantine: it passed the gate again, here or on another server."""
        self._quarantine.lift(content_hash)

    async def close(self) -> None:
        """Finish what is being loaded and dropped."""
        self._closed = True
        while under_way := [*self._loading.values(), *self._dropping]:
            await asyncio.wait(under_way)
        await asyncio.to_thread(self._threads.shutdown)

    def _flight(self, version: VersionId) -> asyncio.Task[Mounted]:
        self._quarantine.check(version)
        flight = self._loading.get(version.content_hash)
        return flight if flight is not None else self._take_off(version)

    def _take_off(self, version: VersionId) -> asyncio.Task[Mounted]:
        if self._closed:
            raise UnavailableError("the server is stopping", fix="call again")
        if len(self._loading) >= MAX_LOADING:
            fix = "ask again later, for fewer tasks at a time"
            raise TooLargeError("too many adapters wait to be loaded", value=len(self._loading), fix=fix)
        flight = asyncio.create_task(self._load(version), name=f"load-{version.task}-{version.version}")
        self._loading[version.content_hash] = flight
        flight.add_done_callback(lambda _: self._loading.pop(version.content_hash))
        # Whoever asked may be gone by then, and asyncio complains of an error that nobody looked at.
        flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        return flight

    async def _load(self, version: VersionId) -> Mounted:
        async with self._turn(version.content_hash):
            ready = self._ready(version)
            if ready is None:
                ready = Mounted(version, await self._bring(version))
                self._loads += 1
                self._arrive(ready)
            return ready

    def _ready(self, version: VersionId) -> Mounted | None:
        """What is hot, or was about to leave and is still warm: that stays then, under this number."""
        known = self._hot.find(version.content_hash) or self._leaving.get(version.content_hash)
        if known is None:
            return None
        ready = known if known.id == version else Mounted(version, known.adapter)
        self._arrive(ready)
        return ready

    async def _bring(self, version: VersionId) -> Adapter:
        try:
            adapter = await self._fetch(version)
            await self._attempt(self._warmer.mount, adapter)
        except PASSING:
            raise
        except LensmountError as error:
            self._quarantine.add(version, error)
            self._quarantine.check(version)
            raise
        return adapter

    async def _fetch(self, version: VersionId) -> Adapter:
        cached = self._cache.take(version.content_hash)
        if cached is None:
            return await self._attempt(self._read, version)
        return await self._attempt(cached.to, self._device)

    async def _attempt(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what may fail in a thread; whatever goes wrong is an error of ours."""
        try:
            return await self.beside(work, *arguments)
        except LensmountError:
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            fix = "ask again later, or serve with a smaller --hot-adapters"
            raise UnavailableError("no memory for this adapter now", field="adapter", fix=fix) from error
        except OSError as error:
            message, fix = f"its package can not be read now: {error.strerror}", "look at the disk, and ask again"
            raise UnavailableError(message, field="adapter", fix=fix) from error
        except Exception as error:  # whatever it is, it is this adapter's and nobody else's
            raise known(error) from error

    def _arrive(self, mounted: Mounted) -> None:
        self._leaving.pop(mounted.id.content_hash, None)
        self._hot.put(mounted)

    def _leave(self, mounted: Mounted) -> None:
        if self._closed:
            return  # the engine goes with all of them
        self._leaving[mounted.id.content_hash] = mounted
        dropping = asyncio.create_task(self._drop(mounted.id.content_hash), name="drop-adapter")
        self._dropping.add(dropping)
        dropping.add_done_callback(self._dropping.discard)

    async def _drop(self, content_hash: str) -> None:
        async with self._turn(content_hash):
            mounted = self._leaving.pop(content_hash, None)
            if mounted is None:
                return  # somebody wanted it again
            try:
                await self.beside(self._warmer.unmount, content_hash)
                self._cache.put(await self.beside(mounted.adapter.to, HOST))
            except Exception as error:  # noqa: BLE001 - nobody waits for this; the log is told
                known(error)

    def _present(self, content_hash: str) -> bool:
        return content_hash in self._hot or content_hash in self._leaving

    @asynccontextmanager
    async def _turn(self, content_hash: str) -> AsyncIterator[None]:
        lock = self._turns.setdefault(content_hash, asyncio.Lock())
        async with lock:
            yield
