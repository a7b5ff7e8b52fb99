"""Works are cut, dealt to lanes and put together again in their order; a fault in one lane stops no other for good."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lensmount.errors import ServerError
from lensmount_server.engine.cpu.lanes import Lanes, _Chunk, deal
from lensmount_server.engine.cpu.units import Work


class Plus:
    """A unit that adds `number`; keeps the sizes and threads of its runs, and may refuse or wait for a sign."""

    row_shape = (2,)
    size_bytes = 0

    def __init__(self, number: float = 0.0, buckets: tuple[int, ...] = (1, 2, 4), *, wide: bool = False) -> None:
        self.number = number
        self.buckets = buckets
        self.wide = wide
        self.sizes: list[int] = []
        self.wide_runs = 0
        self.threads: set[int] = set()

    def run(self, x: Tensor, out: Tensor) -> None:
        assert len(x) in self.buckets
        self.sizes.append(len(x))
        self.threads.add(threading.get_ident())
        torch.add(x, self.number, out=out)

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        if self.wide:
            self.wide_runs += 1
            torch.add(x, self.number, out=out)
        return self.wide


class Failing(Plus):
    """Fails as the first of its lane, and after `other` has begun."""

    def __init__(self, other: threading.Event | None = None) -> None:
        super().__init__(buckets=(1,))
        self.other = other

    def run(self, x: Tensor, out: Tensor) -> None:
        del x, out
        if self.other is not None:
            self.other.wait()
        raise ServerError("it fails")


class Slow(Plus):
    """Says that it has begun, and ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(1.0, buckets=(1,))
        self.begun, self.go_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def run(self, x: Tensor, out: Tensor) -> None:
        self.begun.set()
        self.go_on.wait()
        super().run(x, out)
        self.done.set()


@pytest.fixture
def two() -> Iterator[Lanes]:
    lanes = Lanes(2)
    yield lanes
    lanes.close()


def numbered(rows: int) -> Tensor:
    return torch.arange(2.0 * rows).view(rows, 2)


def right(works: Sequence[Work], outs: Sequence[Tensor]) -> bool:
    return all(
        isinstance(work.unit, Plus) and torch.equal(out, work.x + work.unit.number)
        for work, out in zip(works, outs, strict=True)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 20), st.floats(0.1, 10), st.sampled_from([(1,), (1, 2, 4), (1, 3)])),
        min_size=1,
        max_size=6,
    )
)
def test_every_work_gets_its_own_rows_back_in_order(
    count: int, shapes: list[tuple[int, float, tuple[int, ...]]]
) -> None:
    works = [Work(Plus(100.0 * i, buckets), numbered(rows), weight) for i, (rows, weight, buckets) in enumerate(shapes)]
    lanes = Lanes(count)
    assert right(works, lanes.run(works))
    lanes.close()


def test_rows_are_spread_over_all_lanes(two: Lanes) -> None:
    unit = Plus()
    two.run([Work(unit, numbered(4))])
    assert sorted(unit.sizes) == [2, 2]
    assert len(unit.threads) == 2


def test_one_lane_takes_the_largest_bucket_and_no_thread() -> None:
    lanes, unit = Lanes(1), Plus()
    lanes.run([Work(unit, numbered(7))])
    assert unit.sizes == [4, 2, 1]
    assert unit.threads == {threading.get_ident()}


def test_a_row_goes_wide_only_when_it_is_alone(two: Lanes) -> None:
    unit = Plus(3.0, wide=True)
    alone = [Work(unit, numbered(1))]
    assert right(alone, two.run(alone))
    assert (unit.wide_runs, unit.sizes) == (1, [])
    for works in ([Work(unit, numbered(1)), Work(unit, numbered(1))], [Work(unit, numbered(2))]):
        assert right(works, two.run(works))
        assert unit.wide_runs == 1


def test_a_row_alone_runs_where_there_is_no_wide_form(two: Lanes) -> None:
    works = [Work(Plus(3.0), numbered(1))]
    assert right(works, two.run(works))


def chunk(load: float) -> _Chunk:
    return _Chunk(Plus(), numbered(1), numbered(1), load)


def test_the_longest_goes_first_to_the_lane_that_has_the_least() -> None:
    dealt = deal([chunk(load) for load in (2, 3, 1, 7, 4)], 2)
    assert [[one.load for one in lane] for lane in dealt] == [[7, 2], [4, 3, 1]]


@given(loads=st.lists(st.floats(0.1, 10), max_size=30), lanes=st.integers(1, 8))
def test_dealing_loses_nothing_and_no_lane_is_ahead_by_more_than_one_chunk(loads: list[float], lanes: int) -> None:
    items = [chunk(load) for load in loads]
    dealt = deal(items, lanes)
    assert len(dealt) == lanes
    assert sorted(id(item) for lane in dealt for item in lane) == sorted(map(id, items))
    sums = [sum(item.load for item in lane) for lane in dealt]
    assert max(sums) - min(sums) <= max(loads, default=0) + 1e-9


@pytest.mark.parametrize("failing_first", [True, False])
def test_an_error_is_raised_when_all_lanes_are_done_and_the_next_run_works(two: Lanes, *, failing_first: bool) -> None:
    slow = Slow()
    failing = Failing(slow.begun)
    # Equal loads are dealt in order: the first work runs in the calling thread, the second in a lane's.
    works = [Work(failing, numbered(1)), Work(slow, numbered(1))]
    threading.Timer(0.05, slow.go_on.set).start()
    with pytest.raises(ServerError, match="it fails"):
        two.run(works if failing_first else works[::-1])
    assert slow.done.is_set()
    again = [Work(Plus(2.0), numbered(5)), Work(Plus(5.0), numbered(3))]
    assert right(again, two.run(again))


def test_when_all_lanes_fail_one_error_is_raised(two: Lanes) -> None:
    with pytest.raises(ServerError, match="it fails"):
        two.run([Work(Failing(), numbered(1)), Work(Failing(), numbered(1))])


def test_lanes_that_put_outputs_in_another_order_would_be_seen(two: Lanes) -> None:
    works = [Work(Plus(1.0), numbered(3)), Work(Plus(2.0), numbered(3))]
    assert not right(works, two.run(works)[::-1])
