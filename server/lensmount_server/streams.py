"""The life of one stream: frames out of a mailbox, answers in frame order, nothing lost without a count."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lensmount.errors import DeadlineError, LensmountError, NotFoundError, UnavailableError
from lensmount_server.frames import Answer, Frame, Want
from lensmount_server.scheduling import ANY_TIME, StreamClock, Terms, Turns
from lensmount_server.video.account import Account, AccountState, Drops
from lensmount_server.video.mailbox import DropPolicy, Mailbox, Parcel

__all__ = ["Account", "AccountState", "Answerer", "DropPolicy", "Drops", "Mailbox", "Stream", "StreamResult", "Timings"]


class Answerer(Protocol):
    """Whatever has frames answered: the scheduler with its engine, or a double in a test."""

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        """One answer per want, in order. Raises LensmountError; DeadlineError as soon as it will be too late."""
        ...


_RATE, _LATE = Drops(rate=1), Drops(late=1)


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

    `dropped_before` is what was lost since the previous result of this task on this stream,
    with the frames that only other tasks answered: `rate` where this one skipped them, `late`
    where it was left out. So it explains every gap in the task's frame numbers.
    `frame` holds the pixels for those who draw on them, and is None where nobody asked for pictures.
    """

    source: str
    frame_index: int
    pts_ns: int
    capture_time_ns: int
    answer: Answer
    timings: Timings
    dropped_before: Drops
    frame: Frame | None = field(default=None, compare=False, repr=False)


Answers = dict[Want, Answer]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A frame on its way: the wants whose turn it is, and what was lost between it and the one asked before."""

    frame: Frame
    due: tuple[Want, ...]
    lost: Drops
    answers: asyncio.Task[Answers]


class Stream:
    """Has the frames of a mailbox answered, at most `in_flight` at a time.

    A want with a rate has its turns on the stream's own time. A frame that is no want's turn is
    dropped as `rate`. A frame that is too late (DeadlineError) is asked once more without the
    wants that have a rate, which then have their turn at the next frame: they never promised
    to answer this one. Where that is too late too, the frame is dropped as late. With `tolerant`
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
        terms: Terms = ANY_TIME,
        in_flight: int = 4,
        tolerant: bool = False,
    ) -> None:
        self.name = name
        self.last_error: LensmountError | None = None
        self._mailbox = mailbox
        self._answerer = answerer
        self._wants = tuple(wants)
        self._terms = terms
        self._in_flight = in_flight
        self._tolerant = tolerant
        self._asked: deque[_Asked] = deque()
        self._next: asyncio.Task[Parcel | None] | None = None
        self._ended = False
        self._clock = StreamClock()
        self._turns = {want: Turns(want.max_fps) for want in self._wants}
        self._skipped = Drops()
        self._lost = dict.fromkeys(self._wants, Drops())

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
                for result in self._conclude(asked):
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

    def _what_to_wait_for(self) -> list[asyncio.Task[Answers] | asyncio.Task[Parcel | None]]:
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
            self._ask(parcel)

    def _ask(self, parcel: Parcel) -> None:
        frame, self._skipped = parcel.frame, self._skipped + parcel.lost
        now_ns = self._clock.tick(frame.pts_ns, frame.capture_time_ns)
        due = tuple([want for want, turns in self._turns.items() if turns.take(now_ns)])
        if not due:
            self.account.add(dropped=_RATE)
            self._skipped += _RATE
            return
        lost, self._skipped = self._skipped, Drops()
        self._asked.append(_Asked(frame, due, lost, asyncio.create_task(self._answer(frame, due))))

    async def _answer(self, frame: Frame, due: tuple[Want, ...]) -> Answers:
        promised = tuple(want for want in due if not want.max_fps)
        try:
            answers = await self._answerer.answer(frame, due, self._terms)
        except DeadlineError:
            if promised in ((), due):
                raise
            due, answers = promised, await self._answerer.answer(frame, promised, self._terms)
        return dict(zip(due, answers, strict=True))

    def _conclude(self, asked: _Asked) -> list[StreamResult]:
        self._lose(asked.lost, self._wants)
        error = UnavailableError("the engine is stopping") if asked.answers.cancelled() else asked.answers.exception()
        if error is not None:
            self._drop(error, asked.due)
            return []
        self.account.add(answered=1)
        answers = asked.answers.result()
        results = [_result(self.name, asked.frame, answer, self._lost[want]) for want, answer in answers.items()]
        self._lost.update(dict.fromkeys(answers, Drops()))
        self._lose(_RATE, [want for want in self._wants if want not in asked.due])
        self._put_off(_LATE, [want for want in asked.due if want not in answers])
        return results

    def _drop(self, error: BaseException, due: Iterable[Want]) -> None:
        late = isinstance(error, DeadlineError)
        drops = _LATE if late else Drops(failed=1)
        self.account.add(dropped=drops)
        self._put_off(drops, due)
        self._lose(drops, [want for want in self._wants if want not in due])
        if not late and not self._tolerates(error):
            raise error

    def _put_off(self, drops: Drops, wants: Iterable[Want]) -> None:
        """Wants that were due have lost a frame; the next one is their turn."""
        for want in wants:
            self._turns[want].give_back()
        self._lose(drops, wants)

    def _lose(self, drops: Drops, wants: Iterable[Want]) -> None:
        for want in wants:
            self._lost[want] += drops

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
