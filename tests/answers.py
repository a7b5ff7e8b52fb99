"""Doubles for what answers frames, and patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from lensmount.errors import LensmountError, NotFoundError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.frames import Answer, Frame, VersionId, Want
from lensmount_server.scheduling import Terms


def answer_for(want: Want, version: int = 1) -> Answer:
    return Answer(VersionId(want.task, version, "0" * 64), ("good", "bad"), (0.75, 0.25), ("good",), 0.5, 2.0)


class Echo:
    """Answers every frame after `delay_s`, or raises what `fails` returns for it."""

    def __init__(self, delay_s: float = 0.0, fails: Callable[[Frame], LensmountError | None] | None = None) -> None:
        self.delay_s = delay_s
        self.fails = fails
        self.asking = 0
        self.most_asking = 0
        self.seen: list[int] = []
        self.terms: set[Terms] = set()
        self.gone: set[str] = set()

    def version(self, want: Want) -> VersionId | None:
        if want.task in self.gone:
            raise NotFoundError("no such task", field="task", value=want.task)
        return answer_for(want).adapter

    def preprocessings(self, wants: Sequence[Want]) -> tuple[Preprocessing, ...]:
        del wants
        return ()

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        self.terms.add(terms)
        self.asking += 1
        self.most_asking = max(self.most_asking, self.asking)
        self.seen.append(frame.index)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.asking -= 1
        error = self.fails(frame) if self.fails else None
        if error is not None:
            raise error
        return [answer_for(want) for want in wants]


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)
