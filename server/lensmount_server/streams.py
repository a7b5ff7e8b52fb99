"""The life of one stream: frames out of an inbox, answers in frame order, nothing lost without a count."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lensmount.errors import DeadlineError, LensmountError, NotFoundError, UnavailableError
from lensmount_server.frames import Answer, Frame, VersionId, Want
from lensmount_server.results import StreamResult, Timings
from lensmount_server.scheduling import ANY_TIME, Terms, TurnTable
from lensmount_server.video.account import Account, AccountState, Drops
from lensmount_server.video.mailbox import DropPolicy, Mailbox, Parcel

__all__ = ["Account", "AccountState", "Answerer", "DropPolicy", "Drops", "Mailbox", "Stream", "StreamResult", "Timings"]


class Inbox(Protocol):
    """Where a stream gets its frames from: a mailbox, or a feed in a worker process."""

    @property
    def account(self) -> Account:
        """What became of the frames."""
        ...

    async def get(self) -> Parcel | None:
        """The next frame; None when there will be none. A call that is cancelled loses nothing."""
        ...

    def put_off(self, due: Iterable[int]) -> None:
        """These wants, by position, did not get the frame that was their turn."""
        ...

    def discard(self) -> None:
        """Nobody asks any more: what waits is counted as failed."""
        ...


class Answerer(Protocol):
    """Whatever has frames answered: the scheduler with its engine, or a double in a test."""

    def version(self, want: Want) -> VersionId | None:
        """The version that would answer now; None where that is not known."""
        ...

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        """One answer per want, in order. Raises LensmountError; DeadlineError as soon as it will be too late."""
        ...


_RATE, _LATE = Drops(rate=1), Drops(late=1)


@dataclass(frozen=True)
class _Said:
    """What came of a frame; `reused` where nothing was computed. `known` is all that was said of its scene."""

    answers: dict[Want, Answer]
    known: dict[Want, Answer]
    reused: bool = False


@dataclass(frozen=True, eq=False)
class _Asked:
    """A frame on its way: the wants whose turn it is, and what was lost between it and the one asked before."""

    frame: Frame
    due: tuple[Want, ...]
    lost: Drops
    said: asyncio.Task[_Said]


class Stream:
    """Has the frames of an inbox answered, at most `in_flight` at a time.

    A want with a rate has its turns on the stream's own time. A frame that is no want's turn is
    dropped as `rate`. A still frame repeats the answers of its scene, if every want has one from the
    version that would answer now, and is dropped as `gate`. A frame that is too late (DeadlineError) is
    asked once more without the wants that have a rate, which then have their turn at the next frame: they never
    promised to answer this one. Where that is too late too, the frame is dropped as late. With `tolerant`
    any other LensmountError costs the stream that frame too; a want whose task or version is gone (NotFoundError)
    is left out, and the stream ends with the last of them. Without, every other error ends the stream.
    """

    def __init__(  # each is a part of what a stream is
        self,
        name: str,
        inbox: Inbox,
        answerer: Answerer,
        wants: Sequence[Want],
        *,
        terms: Terms = ANY_TIME,
        in_flight: int = 4,
        tolerant: bool = False,
    ) -> None:
        self.name = name
        self.last_error: LensmountError | None = None
        self._inbox = inbox
        self._answerer = answerer
        self._wants = tuple(wants)
        self._terms = terms
        self._in_flight = in_flight
        self._tolerant = tolerant
        self._asked: deque[_Asked] = deque()
        self._next: asyncio.Task[Parcel | None] | None = None
        self._ended = False
        self._turns = TurnTable([want.max_fps for want in self._wants])
        self._skipped = Drops()
        self._lost = dict.fromkeys(self._wants, Drops())
        self._before: asyncio.Task[_Said] | None = None

    @property
    def account(self) -> Account:
        """What became of the frames."""
        return self._inbox.account

    def finish(self) -> None:
        """Ask for no more frames: `results` ends with those under way, and another stream may go on with the inbox."""
        self._ended = True
        if self._next is not None and not self._next.done():
            self._next.cancel()
            self._next = None

    def follow(self, before: Stream) -> None:
        """Goes on where a finished stream on the same inbox ended: what its wants lost is told by this one."""
        self._skipped = before._skipped
        self._lost.update({want: lost for want, lost in before._lost.items() if want in self._lost})

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
        while not (self._asked and self._asked[0].said.done()):
            waiting = self._what_to_wait_for()
            if not waiting:
                return None
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            self._ask_next()
        return self._asked.popleft()

    def _what_to_wait_for(self) -> list[asyncio.Task[_Said] | asyncio.Task[Parcel | None]]:
        if self._next is None and not self._ended and len(self._asked) < self._in_flight:
            self._next = asyncio.create_task(self._get())
        oldest = [self._asked[0].said] if self._asked else []
        return [*oldest, self._next] if self._next is not None else [*oldest]

    async def _get(self) -> Parcel | None:
        return await self._inbox.get()

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
        places = self._turns.due(frame.pts_ns, frame.capture_time_ns) if parcel.due is None else parcel.due
        if not places:
            self.account.add(dropped=_RATE)
            self._skipped += _RATE
            return
        lost, self._skipped = self._skipped, Drops()
        due = tuple([self._wants[place] for place in places])
        said = asyncio.create_task(self._say(frame, due, self._before if parcel.still else None))
        self._before = said
        self._asked.append(_Asked(frame, due, lost, said))

    async def _say(self, frame: Frame, due: tuple[Want, ...], before: asyncio.Task[_Said] | None) -> _Said:
        """Answers a frame; `before` is the one asked before, if this one shows the same."""
        known = await _known(before) if before is not None else {}
        if all(want in known and known[want].adapter == self._answerer.version(want) for want in due):
            repeated = {want: replace(known[want], queue_ms=0.0, inference_ms=0.0) for want in due}
            return _Said(repeated, known, reused=True)
        answers = await self._answer(frame, due)
        return _Said(answers, {**known, **answers})

    def _conclude(self, asked: _Asked) -> list[StreamResult]:
        self._lose(asked.lost, self._wants)
        error = UnavailableError("the engine is stopping") if asked.said.cancelled() else asked.said.exception()
        if error is not None:
            self._drop(error, asked.due)
            return []
        said = asked.said.result()
        answers = said.answers
        if isinstance(self.last_error, NotFoundError) and len(answers) == len(asked.due):
            self.last_error = None  # what was gone is back
        self.account.add(answered=int(not said.reused), dropped=Drops(gate=int(said.reused)))
        results = [
            StreamResult.of(self.name, asked.frame, answer, self._lost[want], reused=said.reused)
            for want, answer in answers.items()
        ]
        self._lost.update(dict.fromkeys(answers, Drops()))
        self._lose(_RATE, [want for want in self._wants if want not in asked.due])
        self._put_off(_LATE, [want for want in asked.due if want not in answers])
        return results

    async def _answer(self, frame: Frame, due: tuple[Want, ...]) -> dict[Want, Answer]:
        promised = tuple(want for want in due if not want.max_fps)
        try:
            answers = await self._answerer.answer(frame, due, self._terms)
        except DeadlineError:
            if promised in ((), due):
                raise
            due, answers = promised, await self._answerer.answer(frame, promised, self._terms)
        except NotFoundError as error:
            there = tuple(want for want in due if self._is_there(want))
            if not self._tolerant or there in ((), due):
                raise
            self.last_error = error
            return await self._answer(frame, there)
        return dict(zip(due, answers, strict=True))

    def _is_there(self, want: Want) -> bool:
        try:
            self._answerer.version(want)
        except NotFoundError:
            return False
        return True

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
        put_off = tuple(wants)
        places = [self._wants.index(want) for want in put_off]
        if not self._ended:  # else another stream, with wants of its own, may have the inbox by now
            self._turns.give_back(places)
            self._inbox.put_off(places)
        self._lose(drops, put_off)

    def _lose(self, drops: Drops, wants: Iterable[Want]) -> None:
        for want in wants:
            self._lost[want] += drops

    def _tolerates(self, error: BaseException) -> bool:
        if not self._tolerant or not isinstance(error, LensmountError):
            return False
        if isinstance(error, NotFoundError) and not any(map(self._is_there, self._wants)):
            return False
        self.last_error = error
        return True

    async def _abandon(self) -> None:
        tasks = [asked.said for asked in self._asked]
        self._asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.account.add(dropped=Drops(failed=len(tasks) + await self._take_back()))
        self._inbox.discard()

    async def _take_back(self) -> int:
        """How many frames (0 or 1) had left the mailbox without having been asked about."""
        pending, self._next = self._next, None
        if pending is None:
            return 0
        pending.cancel()
        parcels = await asyncio.gather(pending, return_exceptions=True)
        return sum(isinstance(parcel, Parcel) for parcel in parcels)


async def _known(before: asyncio.Task[_Said]) -> dict[Want, Answer]:
    await asyncio.wait([before])
    return {} if before.cancelled() or before.exception() else before.result().known
