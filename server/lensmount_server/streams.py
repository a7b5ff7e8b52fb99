"""The life of one stream: frames out of a mailbox, answers in frame order, nothing lost without a count."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lensmount.errors import DeadlineError, LensmountError, NotFoundError, UnavailableError
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.video.account import Account, AccountState, Drops
from lensmount_server.video.mailbox import DropPolicy, Mailbox, Parcel

__all__ = ["Account", "AccountState", "Answerer", "DropPolicy", "Drops", "Mailbox", "Stream", "StreamResult", "Timings"]


class Answerer(Protocol):
    """Whatever has frames answered: the scheduler with its engine, or a double in a test."""

    async def answer(self, frame: Frame, wants: Sequence[Want]) -> list[Answer]:
        """One answer per want, in order. Raises LensmountError."""
        ...


@dataclass(frozen=True)
class Timings:
    """Where the time of one result went, in milliseconds; `total_ms` runs from capture to the result."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    total_ms: float


@dataclass(frozen=True)
class StreamResult:
    """The answer of one adapter for one frame.

    `dropped_before` is what was lost since the previous answered frame of this stream;
    every result of a frame says the same. `frame` holds the pixels for those who draw
    on them, and is None where nobody asked for pictures.
    """

    source: str
    frame_index: int
    pts_ns: int
    capture_time_ns: int
    answer: Answer
    timings: Timings
    dropped_before: Drops
    frame: Frame | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class _Asked:
    parcel: Parcel
    answers: asyncio.Task[list[Answer]]


class Stream:
    """Has the frames of a mailbox answered, at most `in_flight` at a time.

    A frame that is past its deadline (DeadlineError) is dropped as late. With `tolerant`
    any other LensmountError costs the stream that frame too, except NotFoundError: the
    task is gone, and the stream ends with it. Without, every other error ends the stream.
    """

    def __init__(  # each is a part of what a stream is
        self,
        name: str,
        mailbox: Mailbox,
        answerer: Answerer,
        wants: Sequence[Want],
        *,
        in_flight: int = 4,
        tolerant: bool = False,
    ) -> None:
        self.name = name
        self.last_error: LensmountError | None = None
        self._mailbox = mailbox
        self._answerer = answerer
        self._wants = tuple(wants)
        self._in_flight = in_flight
        self._tolerant = tolerant
        self._asked: deque[_Asked] = deque()
        self._next: asyncio.Task[Parcel | None] | None = None
        self._ended = False
        self._lost = Drops()

    @property
    def account(self) -> Account:
        """What became of the frames."""
        return self._mailbox.account

    async def results(self) -> AsyncGenerator[StreamResult, None]:
        """One result per frame and want, in that order, until the mailbox is closed and empty.

        Close the iterator (`contextlib.aclosing`) to stop early: what is in flight then is
        counted as failed. Raises the LensmountError that ended the stream.
        """
        try:
            while (asked := await self._oldest()) is not None:
                for result in self._conclude(asked.parcel, asked.answers):
                    yield result
        finally:
            await self._abandon()

    async def _oldest(self) -> _Asked | None:
        while not (self._asked and self._asked[0].answers.done()):
            waiting = self._what_to_wait_for()
            if not waiting:
                return None
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._ask_next()
        return self._asked.popleft()

    def _what_to_wait_for(self) -> list[asyncio.Task[list[Answer]] | asyncio.Task[Parcel | None]]:
        if self._next is None and not self._ended and len(self._asked) < self._in_flight:
            self._next = asyncio.create_task(self._mailbox.get())
        oldest = [self._asked[0].answers] if self._asked else []
        return [*oldest, self._next] if self._next is not None else [*oldest]

    def _ask_next(self) -> None:
        if self._next is None or not self._next.done():
            return
        parcel, self._next = self._next.result(), None
        if parcel is None:
            self._ended = True
        else:
            self._asked.append(_Asked(parcel, asyncio.create_task(self._answer(parcel.frame))))

    async def _answer(self, frame: Frame) -> list[Answer]:
        return await self._answerer.answer(frame, self._wants)

    def _conclude(self, parcel: Parcel, answers: asyncio.Task[list[Answer]]) -> list[StreamResult]:
        self._lost += parcel.lost
        error = UnavailableError("the engine is stopping") if answers.cancelled() else answers.exception()
        if error is not None:
            self._drop(error)
            return []
        self.account.add(answered=1)
        lost, self._lost = self._lost, Drops()
        return [_result(self.name, parcel.frame, answer, lost) for answer in answers.result()]

    def _drop(self, error: BaseException) -> None:
        late = isinstance(error, DeadlineError)
        drops = Drops(late=1) if late else Drops(failed=1)
        self.account.add(dropped=drops)
        self._lost += drops
        if not late and not self._tolerates(error):
            raise error

    def _tolerates(self, error: BaseException) -> bool:
        if not self._tolerant or not isinstance(error, LensmountError) or isinstance(error, NotFoundError):
            return False
        self.last_error = error
        return True

    async def _abandon(self) -> None:
        tasks = [asked.answers for asked in self._asked]
        self._asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.account.add(dropped=Drops(failed=len(tasks) + await self._take_back()))
        self._mailbox.discard()

    async def _take_back(self) -> int:
        """How many frames (0 or 1) had left the mailbox without having been asked about."""
        pending, self._next = self._next, None
        if pending is None:
            return 0
        pending.cancel()
        parcels = await asyncio.gather(pending, return_exceptions=True)
        return sum(isinstance(parcel, Parcel) for parcel in parcels)


def _result(source: str, frame: Frame, answer: Answer, lost: Drops) -> StreamResult:
    total_ms = max(time.time_ns() - frame.capture_time_ns, 0) / 1e6
    timings = Timings(frame.decode_ms, answer.queue_ms, answer.inference_ms, total_ms)
    return StreamResult(source, frame.index, frame.pts_ns, frame.capture_time_ns, answer, timings, lost, frame)
