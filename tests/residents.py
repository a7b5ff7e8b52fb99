"""Adapters of any size for tests of what is in memory, and doubles of the disk and the engine that keep notes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import nn

from factories import manifest, random_backbone
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.manifest import Manifest
from lensmount_server.frames import VersionId
from lensmount_server.hotset import Mounted

FLOAT = 4


@lru_cache
def _manifest() -> Manifest:
    return manifest(random_backbone(), "defect", 2)


def version_id(number: int, task: str = "defect") -> VersionId:
    """A version whose hash tells its task and number."""
    return VersionId(task, number, f"{task}-{number}")


def adapter_of(version: VersionId, floats: int = 1) -> Adapter:
    """An adapter whose tensors take 4 × `floats` bytes."""
    replaced = {0: {"weight": torch.zeros(floats)}}
    return Adapter(_manifest(), version.content_hash, 0, {}, replaced, nn.Identity())


def mounted(number: int, floats: int = 1) -> Mounted:
    """A version in memory."""
    version = version_id(number)
    return Mounted(version, adapter_of(version, floats))


@dataclass
class Disk:
    """Reads versions; `held` are those whose reading waits for `go_on`, `fails` what goes wrong with some."""

    fails: Callable[[VersionId], Exception | None] = lambda _: None
    held: frozenset[int] = frozenset()
    reads: Counter[str] = field(default_factory=Counter)
    go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, version: VersionId) -> Adapter:
        self.reads[version.content_hash] += 1
        if version.version in self.held:
            assert self.go_on.wait(60)
        if (error := self.fails(version)) is not None:
            raise error
        return adapter_of(version)


class WarmerLog:
    """An engine that keeps to its contract only if others do: mounted once, unmounted once, in turns."""

    def __init__(self, fails: Callable[[str], Exception | None] = lambda _: None) -> None:
        self.fails = fails
        self.warm: set[str] = set()
        self.mounts: Counter[str] = Counter()
        self.settled: list[tuple[str, bool]] = []
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def mount(self, adapter: Adapter) -> None:
        """Note it; an error of `fails` leaves it cold."""
        with self._lock:
            self.mounts[adapter.content_hash] += 1
            if adapter.content_hash in self.warm:
                self.wrong.append(f"{adapter.content_hash} mounted twice")
            if (error := self.fails(adapter.content_hash)) is not None:
                raise error
            self.warm.add(adapter.content_hash)

    def settle(self, content_hash: str = "", timeout_s: float | None = None) -> None:
        """Note it: for an adapter that is warm at that moment."""
        del timeout_s  # nothing takes long here
        self.settled.append((content_hash, content_hash in self.warm))

    def unmount(self, content_hash: str) -> None:
        """Note it."""
        with self._lock:
            if content_hash not in self.warm:
                self.wrong.append(f"{content_hash} unmounted and not warm")
            self.warm.discard(content_hash)
