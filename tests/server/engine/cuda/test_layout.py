"""Where rows lie follows from forks and frames alone; followed step by step every row stays itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.engine.cuda.layout import Layouts, Shape, Span, gathered, layouts

SEGMENTS = 5


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    frames = draw(st.integers(1, 6))
    some = st.sets(st.integers(0, frames - 1), min_size=1).map(lambda chosen: tuple(sorted(chosen)))
    groups = draw(st.lists(st.tuples(st.integers(0, SEGMENTS), some), min_size=1, max_size=6))
    return Shape(frames, SEGMENTS, tuple(sorted(groups)))


def followed(shape: Shape, plan: Layouts) -> list[list[tuple[int | None, int]]]:
    """For each segment the (group, frame) of each row, by gathering frames' numbers as rows are gathered."""
    x = torch.arange(shape.frames)
    rows = []
    for layout in plan.segments:
        x = gathered(x, layout.gather)
        owners = [span.group for span in layout.spans for _ in span.frames]
        rows.append(list(zip(owners, x.tolist(), strict=True)))
    return rows


def shared_before(shape: Shape, index: int) -> set[int]:
    return {frame for fork, frames in shape.groups if fork > index for frame in frames}


@given(shape=shapes())
def test_the_rows_of_a_segment_are_those_that_somebody_needs(shape: Shape) -> None:
    for index, rows in enumerate(followed(shape, layouts(shape))):
        shared: set[tuple[int | None, int]] = {(None, frame) for frame in shared_before(shape, index)}
        own = {(i, frame) for i, (fork, frames) in enumerate(shape.groups) if fork <= index for frame in frames}
        assert len(rows) == len(set(rows))
        assert set(rows) == shared | own


@given(shape=shapes())
def test_a_span_says_which_frames_its_rows_are(shape: Shape) -> None:
    plan = layouts(shape)
    for layout, rows in zip(plan.segments, followed(shape, plan), strict=True):
        assert [frame for span in layout.spans for frame in span.frames] == [frame for _, frame in rows]
        assert all(span.frames for span in layout.spans)


@given(shape=shapes())
def test_a_head_gets_its_own_rows_in_the_order_of_its_frames(shape: Shape) -> None:
    plan = layouts(shape)
    last = followed(shape, plan)[-1]
    for number, ((fork, frames), positions) in enumerate(zip(shape.groups, plan.heads, strict=True)):
        owner = number if fork < SEGMENTS else None
        assert [last[position] for position in positions] == [(owner, frame) for frame in frames]


def test_rows_that_stay_are_not_gathered() -> None:
    plan = layouts(Shape(2, 4, ((2, (0, 1)), (4, (0, 1)))))
    assert [layout.gather is None for layout in plan.segments] == [True, True, False, True]
    assert plan.segments[2].spans == (Span(None, (0, 1)), Span(0, (0, 1)))


def test_shared_rows_leave_when_the_last_group_forks() -> None:
    plan = layouts(Shape(2, 3, ((1, (0, 1)),)))
    assert plan.segments[1].spans == (Span(0, (0, 1)),)
    assert plan.segments[1].gather is None


def test_a_shape_is_laid_out_once() -> None:
    assert layouts(Shape(3, 4, ((1, (0, 2)),))) is layouts(Shape(3, 4, ((1, (0, 2)),)))


@pytest.mark.parametrize("wrong", [(1, 0), (0, 0)])
def test_rows_gathered_wrongly_would_be_caught(wrong: tuple[int, ...]) -> None:
    x = gathered(torch.arange(2), wrong)
    assert x.tolist() != [0, 1]
