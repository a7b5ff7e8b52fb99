"""Frames are dealt out whole, by speed, and come together where they were."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensmount_server.engine.plan import Pass, plan
from lensmount_server.triton.balancing import joined, shares, split
from serving import Kit

speeds = st.lists(st.one_of(st.just(0.0), st.floats(1e-4, 10)), min_size=1, max_size=6)


@given(st.integers(1, 100), speeds)
def test_every_frame_has_one_engine(frames: int, frame_s: list[float]) -> None:
    taken = shares(frames, frame_s)
    assert len(taken) == len(frame_s)
    assert sum(taken) == frames
    assert min(taken) >= (1 if frames >= len(frame_s) else 0)


@given(st.integers(1, 100), speeds)
def test_who_is_slower_never_has_more(frames: int, frame_s: list[float]) -> None:
    taken = shares(frames, frame_s)
    known = [(cost, count) for cost, count in zip(frame_s, taken, strict=True) if cost]
    for cost, count in known:
        assert all(other <= count for slower, other in known if slower > cost)


@pytest.mark.parametrize(
    ("frames", "frame_s", "wanted"),
    [
        (8, [1.0, 1.0], [4, 4]),
        (8, [0.0, 0.0], [4, 4]),
        (10, [1.0, 3.0], [7, 3]),
        (1, [2.0, 1.0], [0, 1]),
        (5, [1.0, 0.0], [3, 2]),
        (7, [1.0], [7]),
        (16, [1.0, 1000.0], [15, 1]),
    ],
)
def test_all_are_done_together(frames: int, frame_s: list[float], wanted: list[int]) -> None:
    assert shares(frames, frame_s) == wanted


@given(st.data())
def test_rows_come_back_where_they_were(kit: Kit, data: st.DataObject) -> None:
    adapters = [version.adapter for version in kit.versions]
    wants = data.draw(st.lists(st.sets(st.integers(0, len(adapters) - 1), min_size=1), min_size=1, max_size=9))
    (work,) = plan((frame, adapters[which]) for frame, own in enumerate(wants) for which in own)
    sizes = shares(len(work.frames), data.draw(speeds))
    parts = split(work, sizes)
    assert [part.frames for _, part in parts] == [work.frames[place] for place, _ in parts]
    assert [frame for _, part in parts for frame in part.frames] == list(work.frames)
    found = joined(work, parts, [numbered(part) for _, part in parts])
    for mine, whole in zip(found, numbered(work), strict=True):
        assert torch.equal(mine, whole)


def numbered(work: Pass) -> list[torch.Tensor]:
    """Logits that tell of which frame and adapter they are."""
    return [
        torch.tensor([[work.frames[frame], int(group.adapter.content_hash[:6], 16)] for frame in group.frames])
        for group in work.groups
    ]
