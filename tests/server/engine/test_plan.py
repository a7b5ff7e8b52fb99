"""A plan holds every wanted row once, in passes that can run together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from factories import manifest, random_backbone
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.plan import Pass, plan

BACKBONE = random_backbone("test_vit")
SEGMENTS = len(BACKBONE.segments)
SIZES = (160, 160, 160, 160, 160, 192, 192, 256)


def adapter(number: int, fork: int, size: int) -> Adapter:
    preprocessing = BACKBONE.preprocessing.model_copy(update={"height": size})
    described = manifest(BACKBONE, f"task-{number}", 2, preprocessing=preprocessing)
    return Adapter(described, f"{number:064x}", fork, {}, {}, nn.Identity())


ADAPTERS = [adapter(i, (0, 3, 3, 5, SEGMENTS, 0, SEGMENTS, 6)[i], size) for i, size in enumerate(SIZES)]
pairs = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(ADAPTERS)), max_size=40)
Pairs = list[tuple[int, Adapter]]


def rows(work: Pass) -> list[tuple[int, str]]:
    return [(work.frames[position], group.adapter.content_hash) for group in work.groups for position in group.frames]


@given(wanted=pairs)
def test_every_wanted_pair_is_one_row_and_there_are_no_others(wanted: Pairs) -> None:
    planned = [row for work in plan(wanted) for row in rows(work)]
    assert len(planned) == len(set(planned))
    assert set(planned) == {(frame, adapter.content_hash) for frame, adapter in wanted}


@given(wanted=pairs)
def test_a_pass_is_of_one_preprocessing_and_a_preprocessing_is_one_pass(wanted: Pairs) -> None:
    passes = plan(wanted)
    for work in passes:
        assert {group.adapter.manifest.preprocessing for group in work.groups} == {work.preprocessing}
    assert len({work.preprocessing for work in passes}) == len(passes)


@given(wanted=pairs)
def test_a_pass_lists_its_frames_once_and_its_groups_by_fork(wanted: Pairs) -> None:
    for work in plan(wanted):
        assert list(work.frames) == sorted({frame for frame, _ in rows(work)})
        forks = [group.adapter.fork for group in work.groups]
        assert forks == sorted(forks)
        for group in work.groups:
            assert group.frames
            assert list(group.frames) == sorted(set(group.frames))


@given(wanted=pairs)
def test_shared_rows_are_those_that_a_later_fork_still_needs(wanted: Pairs) -> None:
    for work in plan(wanted):
        for segment in range(SEGMENTS):
            needed = {
                frame
                for frame, adapter in wanted
                if adapter.manifest.preprocessing == work.preprocessing and adapter.fork > segment
            }
            assert [work.frames[position] for position in work.shared_after(segment)] == sorted(needed)


@given(wanted=pairs, random=st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_the_pairs_do_not_matter(wanted: Pairs, random: st.DataObject) -> None:
    shuffled = [*wanted, *wanted[:3]]
    random.shuffle(shuffled)  # type: ignore[attr-defined] # hypothesis types its Random as object
    assert {work.preprocessing: work for work in plan(shuffled)} == {work.preprocessing: work for work in plan(wanted)}


def test_nothing_wanted_is_no_pass() -> None:
    assert plan([]) == ()


def test_the_same_content_under_two_names_is_one_row() -> None:
    first = ADAPTERS[1]
    again = Adapter(first.manifest, first.content_hash, first.fork, {}, {}, nn.Identity())
    (work,) = plan([(0, first), (0, again), (1, again)])
    assert rows(work) == [(0, first.content_hash), (1, first.content_hash)]


def test_other_content_under_the_same_name_is_another_row() -> None:
    first = ADAPTERS[1]
    newer = Adapter(first.manifest, "f" * 64, first.fork, {}, {}, nn.Identity())
    (work,) = plan([(0, first), (0, newer)])
    assert len(rows(work)) == 2


@pytest.mark.parametrize("segment", range(SEGMENTS))
def test_frames_that_only_early_forks_want_leave_the_shared_rows(segment: int) -> None:
    early, late = ADAPTERS[1], ADAPTERS[4]
    (work,) = plan([(0, early), (1, early), (1, late)])
    assert work.shared_after(segment) == ((0, 1) if segment < 3 else (1,))
