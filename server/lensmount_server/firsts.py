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
    since: float
    came: asyncio.Future[float]


class FirstAnswers:
    """Versions that aliases point at and that have not answered yet; lives on the event loop.

    `tell` is called with each first answer.
    """

    def __init__(self, tell: Callable[[FirstAnswer], None]) -> None:
        self._tell = tell
        self._awaited: dict[Alias, _Awaited] = {}

    def expect(self, alias: str, version: VersionId, seq: int, since: float | None = None) -> asyncio.Future[float]:
        """The milliseconds from `since` (`time.perf_counter`, now) to the first answer through `alias`, set by `seq`.

        Cancelled when the alias moves on before that.
        """
        self.forget((version.task, alias))
        start = time.perf_counter() if since is None else since
        awaited = _Awaited(version, seq, start, asyncio.get_running_loop().create_future())
        self._awaited[version.task, alias] = awaited
        return awaited.came

    def forget(self, key: Alias) -> None:
        """Nobody will answer through this alias as it was."""
        before = self._awaited.pop(key, None)
        if before is not None:
            before.came.cancel()

    def seen(self, wants: Iterable[Want], answers: Iterable[Answer]) -> None:
        """Take note of a frame's answers."""
        if not self._awaited:
            return
        for want, answer in zip(wants, answers, strict=True):
            key = (want.task, want.alias)
            awaited = None if want.version else self._awaited.get(key)
            if awaited is not None and awaited.version == answer.adapter and not awaited.came.cancelled():
                del self._awaited[key]
                awaited.came.set_result((time.perf_counter() - awaited.since) * 1e3)
                self._tell(FirstAnswer(awaited.version, want.alias, awaited.seq, time.time_ns()))
