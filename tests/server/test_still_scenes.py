"""A still scene repeats its last answer, and never anybody else's: not an older scene's, not another version's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount.errors import NotFoundError, ServerError
from lensmount_server.frames import Answer, Frame, Still, VersionId, Want
from lensmount_server.scheduling import Terms
from lensmount_server.streams import Account, Drops, Stream, StreamResult
from lensmount_server.video.mailbox import Parcel

PIXELS = np.zeros((2, 2, 3), np.uint8)
EVERY, SLOW = Want("defect"), Want("surface", max_fps=1.0)
WANTS = (EVERY, SLOW)


@dataclass
class Shown:
    """One frame of a made-up video: what it shows, who is due, whether its answer fails, how long that takes."""

    scene: int
    due: tuple[int, ...] = (0, 1)
    fails: bool = False
    turns: int = 0


@dataclass
class Inbox:
    """Hands the frames over as a worker does: still where the scene is that of the last one that was not."""

    shown: Sequence[Shown]
    account: Account = field(default_factory=Account)
    at: int = 0
    put_offs: list[int] = field(default_factory=list)

    async def get(self) -> Parcel | None:
        if self.at == len(self.shown):
            return None
        index, self.at = self.at, self.at + 1
        self.account.add(decoded=1)
        still = index > 0 and self.shown[index].scene == self.shown[index - 1].scene
        frame = Frame(Still(PIXELS), index, index * 40_000_000, 1)
        return Parcel(frame, Drops(), self.shown[index].due, still)

    def put_off(self, due: Iterable[int]) -> None:
        self.put_offs += due

    def discard(self) -> None:
        pass


@dataclass
class Oracle:
    """Says which scene a frame shows and which version answered, in scores."""

    shown: Sequence[Shown]
    live: int = 1
    promote_at: int = -1
    asked: list[int] = field(default_factory=list)

    def version(self, want: Want) -> VersionId | None:
        return VersionId(want.task, self.live, f"{self.live}")

    async def answer(self, frame: Frame, wants: Sequence[Want], terms: Terms) -> list[Answer]:
        del terms
        self.asked.append(frame.index)
        if frame.index >= self.promote_at >= 0:
            self.live = 2
        for _ in range(self.shown[frame.index].turns):
            await asyncio.sleep(0)
        if self.shown[frame.index].fails:
            raise ServerError("broken")
        scores = (float(self.shown[frame.index].scene), float(self.live))
        return [
            Answer(VersionId(want.task, self.live, f"{self.live}"), ("scene", "version"), scores, (), 1.0, 2.0)
            for want in wants
        ]


def run(
    shown: Sequence[Shown], oracle: Oracle | None = None, in_flight: int = 2, kind: type[Stream] = Stream
) -> tuple[list[StreamResult], Stream]:
    stream = kind("s", Inbox(shown), oracle or Oracle(shown), WANTS, in_flight=in_flight, tolerant=True)

    async def collect() -> list[StreamResult]:
        async with aclosing(stream.results()) as results:
            return [result async for result in results]

    return asyncio.run(collect()), stream


def check(results: list[StreamResult], shown: Sequence[Shown], stream: Stream) -> None:
    """Each result tells of the scene of its own frame, and every frame is accounted for."""
    for result in results:
        assert result.answer.scores[0] == shown[result.frame_index].scene
        assert result.answer.adapter.version == result.answer.scores[1]
    reused = {result.frame_index for result in results if result.reused}
    computed = {result.frame_index for result in results if not result.reused}
    state = stream.account.state()
    assert not reused & computed
    assert (state.dropped.gate, state.answered, state.in_flight) == (len(reused), len(computed), 0)
    assert len(shown) == state.decoded == state.answered + state.dropped.frames


FRAMES = st.lists(
    st.builds(
        Shown,
        scene=st.integers(0, 2),
        due=st.sampled_from([(0,), (0, 1)]),
        fails=st.sampled_from([False, False, False, True]),
        turns=st.integers(0, 4),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=300)
@given(FRAMES, st.integers(1, 4), st.integers(-1, 30))
def test_no_result_is_of_another_scene(shown: list[Shown], in_flight: int, promote_at: int) -> None:
    results, stream = run(shown, Oracle(shown, promote_at=promote_at), in_flight)
    check(results, shown, stream)


class Careless(Stream):
    """Takes every frame for one of the scene before."""

    def _ask(self, parcel: Parcel) -> None:
        super()._ask(replace(parcel, still=True))


def test_the_check_notices_an_answer_of_an_older_scene() -> None:
    shown = [Shown(0), Shown(1), Shown(1)]
    results, stream = run(shown, kind=Careless)
    with pytest.raises(AssertionError):
        check(results, shown, stream)


def test_a_task_that_did_not_look_at_the_scene_is_asked() -> None:
    # Scene 1 was looked at for `defect` alone before it stood still: what `surface` said was of scene 0.
    shown = [Shown(0), Shown(1, due=(0,)), Shown(1), Shown(1)]
    results, stream = run(shown)
    assert [(result.frame_index, result.reused) for result in results[-4:]] == [(2, False)] * 2 + [(3, True)] * 2
    check(results, shown, stream)


def test_a_still_scene_is_asked_once() -> None:
    shown = [Shown(0)] * 10
    oracle = Oracle(shown)
    results, stream = run(shown, oracle)
    assert oracle.asked == [0]
    assert [result.reused for result in results] == [False] * 2 + [True] * 18
    assert {(result.timings.queue_ms, result.timings.inference_ms) for result in results if result.reused} == {(0, 0)}
    assert all(result.dropped_before == Drops() for result in results)
    check(results, shown, stream)


def test_a_new_version_is_asked_though_nothing_moved() -> None:
    shown = [Shown(0)] * 6
    oracle = Oracle(shown)
    inbox = Inbox(shown)
    stream = Stream("s", inbox, oracle, WANTS, in_flight=1)

    async def collect() -> list[StreamResult]:
        results = []
        async with aclosing(stream.results()) as arriving:
            async for result in arriving:
                results.append(result)
                if result.frame_index == 2:
                    oracle.live = 2
        return results

    results = asyncio.run(collect())
    assert [result.answer.adapter.version for result in results[::2]] == [1, 1, 1, 2, 2, 2]
    assert oracle.asked == [0, 3]


def test_a_frame_that_failed_is_not_repeated() -> None:
    shown = [Shown(0, fails=True), Shown(0), Shown(0)]
    results, stream = run(shown)
    assert [(result.frame_index, result.reused) for result in results[::2]] == [(1, False), (2, True)]
    check(results, shown, stream)


def test_a_task_that_is_gone_ends_the_stream() -> None:
    class Gone(Oracle):
        def version(self, want: Want) -> VersionId | None:
            raise NotFoundError("no such task", field="tasks", value=want.task)

    shown = [Shown(0)] * 3
    with pytest.raises(NotFoundError):
        run(shown, Gone(shown))


def test_answers_that_take_their_time_are_waited_for() -> None:
    chance = random.Random(1)
    shown = [replace(Shown(index // 5), turns=chance.randrange(20)) for index in range(60)]
    oracle = Oracle(shown)
    results, stream = run(shown, oracle, in_flight=6)
    assert oracle.asked == list(range(0, 60, 5))
    check(results, shown, stream)
