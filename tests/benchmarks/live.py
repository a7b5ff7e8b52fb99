"""What the figures of live sources share: a server with light tasks, a thread that watches, statistics."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Self

from lensmount import Client
from lensmount.results import Result
from lensmount.serving import Server
from lensmount.sources import Source, SourceState
from lensmount_server.bench import specimens
from lensmount_server.bench.served import packages, pair, server
from lensmount_server.engine.settings import EngineSettings

BACKBONE = "test_vit"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Live:
    """A server of its own process, a client of it, and its two tasks: LoRA in the last blocks, and a head."""

    server: Server
    client: Client
    tasks: tuple[str, ...]

    def reach(self, name: str, state: SourceState, patience_s: float = PATIENCE_S) -> Source:
        """Waits until a source is in that state."""
        deadline = time.monotonic() + patience_s
        while (source := self.client.source(name)).state is not state:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is {source.state} ({source.reason}) and not {state}")
            time.sleep(0.05)
        return source


@contextmanager
def live(settings: EngineSettings | None = None) -> Iterator[Live]:
    """Runs the server while open."""
    backbone = specimens.backbone_of(BACKBONE)
    with tempfile.TemporaryDirectory(prefix="lensmount-live-") as folder:
        scratch = Path(folder)
        made = packages(backbone, pair(backbone), scratch)
        with server(backbone, settings or EngineSettings(), scratch) as served, Client(served.address) as client:
            for each in made:
                client.register(each.archive, alias="live")
            yield Live(served, client, tuple(each.task for each in made))


@dataclass(frozen=True)
class Seen:
    """A result and when it came, in seconds of Unix time."""

    at_s: float
    result: Result


class Watcher:
    """A thread that keeps the results of all sources while its `with` block is open."""

    def __init__(self, client: Client, tasks: Iterable[str] = ()) -> None:
        self.seen: list[Seen] = []
        self._watch = client.watch(tasks=tasks, queue_size=10_000)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._thread.join()

    def first(self, source: str, after_s: float, patience_s: float = PATIENCE_S) -> Seen:
        """Waits for the first result of a source that came after a time."""
        deadline, place = time.monotonic() + patience_s, 0
        while time.monotonic() < deadline:
            while place < len(self.seen):
                each = self.seen[place]
                place += 1
                if each.result.source == source and each.at_s > after_s:
                    return each
            time.sleep(0.01)
        raise TimeoutError(f"no result of {source} within {patience_s:g} s")

    def _run(self) -> None:
        for item in self._watch:
            if isinstance(item, Result):
                self.seen.append(Seen(time.time(), item))


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least two values; NaN for fewer."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else float("nan")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
