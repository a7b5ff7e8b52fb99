from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers import Echo, answer_for
from lensmount.errors import DeadlineError, LensmountError, NotFoundError, ServerError, UnavailableError
from lensmount_server.frames import Answer, Frame, Still, Want
from lensmount_server.scheduling import Terms
from lensmount_server.streams import Account, DropPolicy, Drops, Mailbox, Stream, StreamResult

PIXELS = np.zeros((2, 2, 3), np.uint8)
WANTS = (Want("defect"), Want("surface"))
Fate = Literal["answered", "late", "failed"]


def frame(index: int) -> Frame:
    return Frame(Still(PIXELS), index, index * 40_000_000, time.time_ns(), 1.5)


class Scripted(Echo):
    """Answers each frame as its fate says, after its own number of turns of the loop."""

    def __init__(self, fates: Sequence[tuple[Fate, int]]) -> None:
        super().__init__()
        self.fates = fates

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        del terms
        fate, turns = self.fates[frame.index]
        for _ in range(turns):
            await asyncio.sleep(0)
        if fate == "late":
            raise DeadlineError("too late")
        if fate == "failed":
            raise ServerError("broken")
        return [answer_for(want) for want in wants]


async def collect(stream: Stream, limit: int | None = None) -> list[StreamResult]:
    results = []
    async with aclosing(stream.results()) as arriving:
        async for result in arriving:
            results.append(result)
            if len(results) == limit:
                break
    return results


def filled(count: int, account: Account | None = None) -> Mailbox:
    mailbox = Mailbox(DropPolicy.EVERY_FRAME, max(count, 1), account)
    for index in range(count):
        mailbox.put(frame(index))
    mailbox.close()
    return mailbox


def check_account(stream: Stream, results: list[StreamResult], wants: int) -> None:
    """What must hold after a stream: decoded = answered + dropped, and each gap is explained by its drops."""
    state = stream.account.state()
    assert state.in_flight == 0
    assert state.decoded == state.answered + state.dropped.frames
    assert state.answered * wants == len(results)
    position = -1
    for result in results[::wants]:
        assert result.frame_index - position - 1 == result.dropped_before.frames
        position = result.frame_index


FATES = st.lists(st.tuples(st.sampled_from(["answered", "late", "failed"]), st.integers(0, 5)), max_size=30)


@settings(deadline=None)
@given(FATES, st.integers(1, 6), st.sampled_from(DropPolicy), st.integers(1, 4), st.integers(0, 4))
def test_the_account_closes_whatever_happens_to_the_frames(
    fates: list[tuple[Fate, int]], in_flight: int, policy: DropPolicy, size: int, turns: int
) -> None:
    async def follow() -> tuple[Stream, list[StreamResult]]:
        mailbox = Mailbox(policy, size)
        stream = Stream("s", mailbox, Scripted(fates), WANTS, in_flight=in_flight, tolerant=True)

        async def produce() -> None:
            for index in range(len(fates)):
                await mailbox.offer(frame(index))
                for _ in range(turns):
                    await asyncio.sleep(0)
            mailbox.close()

        _, results = await asyncio.gather(produce(), collect(stream))
        return stream, results

    stream, results = asyncio.run(follow())
    check_account(stream, results, len(WANTS))
    assert stream.account.state().decoded == len(fates)


@settings(deadline=None)
@given(FATES, st.integers(1, 6), st.integers(1, 20))
def test_the_account_closes_when_the_reader_leaves_early(
    fates: list[tuple[Fate, int]], in_flight: int, limit: int
) -> None:
    stream = Stream("s", filled(len(fates)), Scripted(fates), WANTS[:1], in_flight=in_flight, tolerant=True)
    results = asyncio.run(collect(stream, limit))
    state = stream.account.state()
    assert state.decoded == len(fates) == state.answered + state.dropped.frames
    assert state.answered == len(results)


class ForgetfulAccount(Account):
    """Forgets the drops."""

    def add(self, *, decoded: int = 0, answered: int = 0, dropped: Drops | None = None) -> None:
        del dropped
        super().add(decoded=decoded, answered=answered)


def test_the_check_notices_an_account_that_forgets() -> None:
    fates: list[tuple[Fate, int]] = [("answered", 0), ("late", 0), ("answered", 0)]
    stream = Stream("s", filled(3, ForgetfulAccount()), Scripted(fates), WANTS)
    results = asyncio.run(collect(stream))
    with pytest.raises(AssertionError):
        check_account(stream, results, len(WANTS))


async def test_results_come_in_frame_order_though_answers_do_not() -> None:
    class Backwards(Echo):
        async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
            del terms
            await asyncio.sleep(0.02 * (4 - frame.index % 4))
            return [answer_for(want) for want in wants]

    results = await collect(Stream("s", filled(12), Backwards(), WANTS))
    assert [(result.frame_index, result.answer.adapter.task) for result in results] == [
        (index, want.task) for index in range(12) for want in WANTS
    ]


async def test_several_frames_are_in_flight_but_not_more_than_allowed() -> None:
    answerer = Echo(0.01)
    await collect(Stream("s", filled(20), answerer, WANTS, in_flight=3))
    assert answerer.most_asking == 3
    assert answerer.seen == list(range(20))


async def test_a_result_says_where_it_comes_from_and_what_it_took() -> None:
    result = (await collect(Stream("line-1", filled(1), Echo(0.05), WANTS)))[0]
    assert (result.source, result.frame_index, result.pts_ns) == ("line-1", 0, 0)
    assert result.answer.adapter.task == "defect"
    assert (result.timings.decode_ms, result.timings.queue_ms, result.timings.inference_ms) == (1.5, 0.5, 2.0)
    assert 50 <= result.timings.total_ms < 60_000
    assert result.frame is not None


async def test_packets_that_never_became_a_frame_are_told_with_the_next_result() -> None:
    mailbox = Mailbox(DropPolicy.EVERY_FRAME, 4)
    mailbox.put(frame(0))
    stream = Stream("s", mailbox, Echo(), WANTS[:1])
    async with aclosing(stream.results()) as results:
        assert (await anext(results)).dropped_before == Drops()
        mailbox.lose(Drops(decode=3))
        mailbox.put(frame(1))
        assert (await anext(results)).dropped_before == Drops(decode=3)


async def test_a_late_frame_is_dropped_and_the_stream_goes_on() -> None:
    answerer = Echo(fails=lambda frame: DeadlineError("late") if frame.index == 1 else None)
    stream = Stream("s", filled(3), answerer, WANTS[:1])
    results = await collect(stream)
    assert [(result.frame_index, result.dropped_before) for result in results] == [(0, Drops()), (2, Drops(late=1))]
    assert stream.account.state().dropped == Drops(late=1)


@pytest.mark.parametrize(
    ("error", "tolerant", "ends"),
    [
        (NotFoundError("gone"), True, False),
        (NotFoundError("gone"), False, True),
        (ServerError("defect"), True, False),
        (ServerError("defect"), False, True),
    ],
)
async def test_which_errors_end_a_stream(error: LensmountError, tolerant: bool, ends: bool) -> None:
    answerer = Echo(fails=lambda frame: error if frame.index == 2 else None)
    stream = Stream("s", filled(6), answerer, WANTS[:1], tolerant=tolerant)
    if ends:
        with pytest.raises(type(error)):
            await collect(stream)
    else:
        assert len(await collect(stream)) == 5
        assert stream.last_error is (None if isinstance(error, NotFoundError) else error)  # what was gone is back
    state = stream.account.state()
    assert state.decoded == state.answered + state.dropped.frames == 6


async def test_a_defect_in_the_answerer_is_not_swallowed() -> None:
    class Broken(Echo):
        async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
            raise ZeroDivisionError(frame, wants, terms)

    stream = Stream("s", filled(2), Broken(), WANTS, tolerant=True)
    with pytest.raises(ZeroDivisionError):
        await collect(stream)
    assert stream.account.state().in_flight == 0


async def test_an_answerer_that_is_stopping_cancels() -> None:
    class Stopping(Echo):
        async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
            raise asyncio.CancelledError(frame, wants, terms)

    with pytest.raises(UnavailableError):
        await collect(Stream("s", filled(1), Stopping(), WANTS))


async def test_leaving_a_stream_leaves_nothing_running() -> None:
    mailbox = Mailbox(DropPolicy.EVERY_FRAME, 8)
    for index in range(8):
        mailbox.put(frame(index))
    answerer = Echo(0.01)
    stream = Stream("s", mailbox, answerer, WANTS[:1])
    before = asyncio.all_tasks()
    await collect(stream, limit=2)
    assert asyncio.all_tasks() == before
    assert answerer.asking == 0
    assert mailbox.put(frame(8)) is False
    state = stream.account.state()
    assert state == type(state)(decoded=8, answered=2, dropped=Drops(failed=6))


@pytest.mark.parametrize("turns", range(8))
async def test_being_cancelled_between_mailbox_and_answerer_closes_the_account(turns: int) -> None:
    mailbox = Mailbox(DropPolicy.NEWEST)
    stream = Stream("s", mailbox, Echo(30), WANTS)
    reading = asyncio.create_task(collect(stream))
    await asyncio.sleep(0.01)
    mailbox.put(frame(0))
    for _ in range(turns):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert stream.account.state().dropped == Drops(failed=1)
    assert stream.account.state().in_flight == 0


async def test_being_cancelled_while_waiting_closes_the_account() -> None:
    mailbox = Mailbox(DropPolicy.NEWEST)
    stream = Stream("s", mailbox, Echo(30), WANTS)
    reading = asyncio.create_task(collect(stream))
    mailbox.put(frame(0))
    await asyncio.sleep(0.01)
    mailbox.put(frame(1))
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert stream.account.state().dropped == Drops(failed=2)
    assert stream.account.state().in_flight == 0


# Rates: some wants look at some of the frames.

RATED = (Want("defect"), Want("scene", max_fps=5))
TERMS = Terms("s", 3, 0.2)


def numbers(results: list[StreamResult], task: str) -> list[int]:
    return [result.frame_index for result in results if result.answer.adapter.task == task]


def check_gaps(results: list[StreamResult], tasks: Sequence[str]) -> None:
    """For each task every gap in its frame numbers is explained by what was dropped before."""
    for task in tasks:
        position = -1
        for result in [each for each in results if each.answer.adapter.task == task]:
            assert result.frame_index - position - 1 == result.dropped_before.frames
            position = result.frame_index


async def test_a_want_with_a_rate_looks_at_its_frames_only() -> None:
    answerer = Echo()
    stream = Stream("s", filled(50), answerer, RATED, terms=TERMS)
    results = await collect(stream)
    assert numbers(results, "defect") == list(range(50))
    scenes = numbers(results, "scene")
    assert len(scenes) == pytest.approx(10, abs=1)
    assert set(np.diff(scenes[1:])) == {5}
    check_gaps(results, ("defect", "scene"))
    assert [each.dropped_before for each in results if each.answer.adapter.task == "scene"][2] == Drops(rate=4)
    assert (stream.account.state().answered, stream.account.state().dropped) == (50, Drops())
    assert answerer.terms == {TERMS}


async def test_a_frame_that_nobody_wants_is_a_drop_by_rate_and_is_not_asked() -> None:
    answerer = Echo()
    stream = Stream("s", filled(50), answerer, RATED[1:])
    results = await collect(stream)
    state = stream.account.state()
    assert len(answerer.seen) == len(results) == state.answered
    assert state.dropped == Drops(rate=50 - state.answered)
    check_gaps(results, ("scene",))


async def test_skipped_frames_take_no_place_in_flight() -> None:
    mailbox = Mailbox(DropPolicy.EVERY_FRAME, 2)
    stream = Stream("s", mailbox, Echo(30), RATED[1:], in_flight=2)
    reading = asyncio.create_task(collect(stream))
    for index in range(5):
        async with asyncio.timeout(10):
            await mailbox.offer(frame(index))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert stream.account.state().decoded == 5


class Tight(Echo):
    """Has time for one task a frame."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        del terms
        self.asked.append((frame.index, len(wants)))
        if len(wants) > 1 and frame.index < 20:
            raise DeadlineError("too much")
        return [answer_for(want) for want in wants]


async def test_what_is_too_much_is_answered_without_the_tasks_that_have_a_rate() -> None:
    answerer = Tight()
    stream = Stream("s", filled(40), answerer, RATED)
    results = await collect(stream)
    assert numbers(results, "defect") == list(range(40))
    scenes = numbers(results, "scene")
    assert 20 <= scenes[0] <= 24
    first = next(each for each in results if each.answer.adapter.task == "scene")
    assert first.dropped_before.late > 10
    check_gaps(results, ("defect", "scene"))
    assert stream.account.state().dropped == Drops()
    assert answerer.asked[:2] in ([(0, 2), (1, 2)], [(0, 2), (0, 1)])


async def test_tasks_that_all_promised_are_refused_together() -> None:
    stream = Stream("s", filled(22), Tight(), WANTS)
    results = await collect(stream)
    assert numbers(results, "defect") == [20, 21]
    assert stream.account.state().dropped == Drops(late=20)


@settings(deadline=None)
@given(FATES, st.integers(1, 6), st.sampled_from([0.0, 3.0, 12.0, 24.0]), st.sampled_from([1.0, 9.0, 25.0]))
def test_the_account_closes_with_rates(
    fates: list[tuple[Fate, int]], in_flight: int, first: float, second: float
) -> None:
    wants = (Want("defect", max_fps=first), Want("scene", max_fps=second))
    stream = Stream("s", filled(len(fates)), Scripted(fates), wants, in_flight=in_flight, tolerant=True)
    results = asyncio.run(collect(stream))
    state = stream.account.state()
    assert state.decoded == len(fates) == state.answered + state.dropped.frames
    assert state.answered == len({result.frame_index for result in results})
    check_gaps(results, ("defect", "scene"))


async def test_a_stream_that_made_room_puts_off_nobody_elses_tasks() -> None:
    class Noting(Mailbox):
        def __init__(self) -> None:
            super().__init__(DropPolicy.EVERY_FRAME, 8)
            self.put_offs: list[int] = []

        def put_off(self, due: Iterable[int]) -> None:
            self.put_offs += due

    async def put_offs(*, finished: bool) -> list[int]:
        mailbox = Noting()
        stream = Stream("s", mailbox, Echo(0.02, lambda _: DeadlineError("too late")), WANTS[:1])
        collecting = asyncio.create_task(collect(stream))
        mailbox.put(frame(0))
        await asyncio.sleep(0.005)
        if finished:
            stream.finish()
        else:
            await asyncio.sleep(0.05)
            mailbox.close()
        await collecting
        return mailbox.put_offs

    assert await put_offs(finished=True) == []
    assert await put_offs(finished=False) == [0]
