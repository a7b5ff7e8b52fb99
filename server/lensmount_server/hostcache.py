"""Adapters that left the hot set and are still in the host's memory: back without the disk."""

from __future__ import annotations

from collections import OrderedDict

from lensmount_adapters.adapter import Adapter

HOST_BYTES = 1 << 30


class HostCache:
    """At most `limit` bytes of adapters by content hash, the one that was put first leaving first."""

    def __init__(self, limit: int = HOST_BYTES) -> None:
        self._limit = limit
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, content_hash: str) -> bool:
        return content_hash in self._adapters

    @property
    def size_bytes(self) -> int:
        """What their tensors take."""
        return self._bytes

    def put(self, adapter: Adapter) -> None:
        """Keep an adapter, whose tensors must be on the host, as long as there is room."""
        self.take(adapter.content_hash)
        self._adapters[adapter.content_hash] = adapter
        self._bytes += adapter.size_bytes
        while self._bytes > self._limit:
            self.take(next(iter(self._adapters)))

    def take(self, content_hash: str) -> Adapter | None:
        """An adapter that is here, which is no longer then."""
        adapter = self._adapters.pop(content_hash, None)
        if adapter is not None:
            self._bytes -= adapter.size_bytes
        return adapter
