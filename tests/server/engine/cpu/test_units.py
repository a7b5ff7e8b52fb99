"""Rows are cut into the sizes that a unit was compiled for, none lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from factories import random_backbone
from lensmount_server.engine.cpu.units import chunks
from lensmount_server.engine.ranges import SegmentRange

buckets = st.sets(st.integers(2, 16), max_size=4).map(lambda sizes: (1, *sorted(sizes)))


@given(rows=st.integers(1, 100), buckets=buckets, limit=st.integers(1, 100))
def test_chunks_are_buckets_within_the_limit_that_add_up_to_the_rows(
    rows: int, buckets: tuple[int, ...], limit: int
) -> None:
    sizes = chunks(rows, buckets, limit)
    assert sum(sizes) == rows
    assert set(sizes) <= set(buckets)
    assert max(sizes) <= limit
    assert sizes == sorted(sizes, reverse=True)


def test_no_row_is_no_chunk() -> None:
    assert chunks(0, (1, 2), 4) == []


def test_a_limit_below_every_bucket_leaves_the_smallest() -> None:
    assert chunks(6, (2, 4), 1) == [2, 2, 2]


def test_a_range_is_as_long_as_it_has_segments() -> None:
    assert len(SegmentRange(2, 7, random_backbone("test_resnet").preprocessing)) == 5
