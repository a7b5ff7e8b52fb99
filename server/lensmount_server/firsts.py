"""When a promoted version answered its first frame: what an operator waits to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lensmount_server.frames import Answer, VersionId, Want
from lensmount_server.mounts import Alias


@dataclass(frozen=True)
class FirstAnswer:
    """A version answered for the first time through an alias, which the change `seq` had pointed at it.

    `time_ns` is Unix time.
    """

    version: VersionId
    alias: str
    seq: int
    time_ns: int


@dataclass(frozen=True, eq=False)
class _Awaited:
    version: VersionId
    seq: int
    came: asyncio.Future[float]


class FirstAnswers:
    """Versions that aliases were pointed at and their first answers; lives on the event loop.

    `tell` is called with each first answer.
    """

    def __init__(self, tell: Callable[[FirstAnswer], None]) -> None:
        self._tell = tell
        self._latest: dict[Alias, _Awaited] = {}
        self._open: set[Alias] = set()

    def expect(self, alias: str, version: VersionId, seq: int) -> asyncio.Future[float]:
        """When (`time.perf_counter`) the first answer through `alias` comes, which change `seq` pointed at `version`.

        All who ask for one change get the same. Cancelled when the alias moves on before that.
        """
        key = (version.task, alias)
        before = self._latest.get(key)
        if before is not None and before.seq == seq:
            return before.came
        latest = _Awaited(version, seq, asyncio.get_running_loop().create_future())
        if before is not None and before.seq > seq:  # the alias has moved on
            latest.came.cancel()
            return latest.came
        if before is not None:
            before.came.cancel()
        self._latest[key] = latest
        self._open.add(key)
        return latest.came

    def seen(self, wants: Iterable[Want], answers: Iterable[Answer]) -> None:
        """Take note of a frame's answers."""
        if not self._open:
            return
        for want, answer in zip(wants, answers, strict=True):
            key = (want.task, want.alias)
            if want.version or key not in self._open or self._latest[key].version != answer.adapter:
                continue
            self._open.discard(key)
            latest = self._latest[key]
            latest.came.set_result(time.perf_counter())
            self._tell(FirstAnswer(latest.version, want.alias, latest.seq, time.time_ns()))
