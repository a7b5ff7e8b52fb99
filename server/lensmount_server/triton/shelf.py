"""The adapters of an engine that a Triton hosts: they come and go in a thread of their own while it computes."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lensmount.errors import IncompatibleError, LensmountError
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.admission import admit
from lensmount_adapters.archive import unpack
from lensmount_adapters.backbones import Backbone
from lensmount_server.defects import known
from lensmount_server.engine.runtime import Executor
from lensmount_server.triton.wire import ContentHash, Place

# How long an adapter is waited for before it counts as settled as it is.
SETTLE_S = 20.0


@dataclass
class _Entry:
    place: Place = Place.MOUNTING
    adapter: Adapter | None = None
    error: LensmountError | None = None


class Shelf:
    """Mounts packages, one after the other in the order in which they are told, and takes them down.

    Calls come from one thread, and none of them waits for the engine.
    """

    def __init__(self, backbone: Backbone, executor: Executor) -> None:
        self._backbone = backbone
        self._executor = executor
        self._entries: dict[ContentHash, _Entry] = {}
        self._changing = ThreadPoolExecutor(1, thread_name_prefix="shelf")
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="settle")
        self._lock = threading.Lock()

    def mount(self, content_hash: ContentHash, archive: bytes) -> None:
        """Begin to mount a package, unless it is mounted or on its way; `place` tells what became of it."""
        with self._lock:
            entry = self._entries.get(content_hash)
            if entry is not None and entry.place is not Place.FAILED:
                return
            entry = self._entries[content_hash] = _Entry()
        self._changing.submit(self._mount, content_hash, archive, entry)

    def unmount(self, content_hash: ContentHash) -> None:
        """Forget an adapter: no request finds it any more."""
        with self._lock:
            entry = self._entries.pop(content_hash, None)
        if entry is not None:
            self._changing.submit(self._executor.unmount, content_hash)

    def place(self, content_hash: ContentHash) -> Place:
        """Where an adapter is; raises the error of one that failed."""
        with self._lock:
            entry = self._entries.get(content_hash)
        if entry is not None and entry.error is not None:
            raise entry.error
        return Place.ABSENT if entry is None else entry.place

    def mounted(self) -> tuple[ContentHash, ...]:
        """The content hashes of adapters that can answer."""
        with self._lock:
            return tuple(name for name, entry in self._entries.items() if entry.adapter is not None)

    def find(self, wanted: Iterable[ContentHash]) -> dict[ContentHash, Adapter]:
        """Those of the adapters that can answer."""
        with self._lock:
            entries = {content_hash: self._entries.get(content_hash) for content_hash in wanted}
        return {name: entry.adapter for name, entry in entries.items() if entry and entry.adapter is not None}

    def close(self) -> None:
        """Finish what was begun."""
        self._changing.shutdown()
        self._settling.shutdown()

    def _mount(self, content_hash: ContentHash, archive: bytes, entry: _Entry) -> None:
        try:
            adapter = self._admitted(content_hash, archive)
            self._executor.mount(adapter)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this package's; `place` tells it
            with self._lock:
                entry.place, entry.error = Place.FAILED, known(error)
            return
        with self._lock:
            entry.place, entry.adapter = Place.MOUNTED, adapter
        self._settling.submit(self._settle, content_hash, entry)

    def _settle(self, content_hash: ContentHash, entry: _Entry) -> None:
        try:
            self._executor.settle(content_hash, SETTLE_S)
        except Exception as error:  # noqa: BLE001 - it answers all the same, in its slower form
            known(error)
        with self._lock:
            entry.place = Place.SETTLED

    def _admitted(self, content_hash: ContentHash, archive: bytes) -> Adapter:
        """The adapter of an archive, every check of the gate passed that needs no engine."""
        with tempfile.TemporaryDirectory(prefix="lensmount-") as scratch:
            file, folder = Path(scratch) / "upload.zip", Path(scratch) / "package"
            file.write_bytes(archive)
            unpack(file, folder)
            adapter = admit(folder, self._backbone, lambda *_: None).adapter
        if adapter.content_hash != content_hash:
            fix = "register the package again, and look at the disk of the lensmount server"
            message = f"its content is {adapter.content_hash[:12]}, not what it was sent as"
            raise IncompatibleError(message, field="package", value=content_hash[:12], fix=fix)
        return adapter.to(self._backbone.device)
