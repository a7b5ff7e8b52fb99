"""The trunk's parts cover every segment once, however it is cut and whoever looks on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import random_backbone
from lensmount.errors import ServerError
from lensmount_adapters.preprocessing import Preprocessing
from lensmount_server.engine.cpu.trunk import Trunk
from lensmount_server.engine.cpu.units import NO_TENSORS, Options, Unit
from lensmount_server.engine.probes import Probes
from lensmount_server.engine.ranges import SegmentRange

SEGMENTS = 9
OPTIONS = Options((1,))
PREPROCESSING = random_backbone("test_resnet").preprocessing
OTHER = PREPROCESSING.model_copy(update={"height": 96, "width": 96})


@dataclass(frozen=True)
class Digits:
    """A unit that appends the number of each of its segments to a row, as digits: what ran, and in which order."""

    range_: SegmentRange
    size_bytes: int
    buckets = (1,)
    row_shape = (1,)

    def run(self, x: Tensor, out: Tensor) -> None:
        out.copy_(x)
        for segment in range(self.range_.start, self.range_.stop):
            out.mul_(10).add_(segment)

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        del x, out
        return False


class DigitsCompiler:
    """Makes units of digits, and remembers which."""

    name, precision, lanes = "digits", "fp32", 1
    probes = Probes(random_backbone("test_resnet"))

    def __init__(self) -> None:
        self.made: list[SegmentRange] = []
        self.fails = False

    def compile(self, range_: SegmentRange, options: Options, tensors: Mapping[str, Tensor] = NO_TENSORS) -> Digits:
        assert not tensors
        assert options is OPTIONS
        if self.fails:
            raise ServerError("it can not")
        self.made.append(range_)
        time.sleep(1e-4)  # other threads look on
        return Digits(range_, len(range_))

    def compile_lora(self, range_: SegmentRange, options: Options, ranks: Mapping[str, int]) -> None:
        raise NotImplementedError


@pytest.fixture
def compiler() -> DigitsCompiler:
    return DigitsCompiler()


def through(trunk: Trunk, start: int, stop: int, preprocessing: Preprocessing = PREPROCESSING) -> int:
    """The digits of the segments that a row really went through."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    for range_, unit in trunk.units(start, stop, preprocessing):
        assert isinstance(unit, Digits)
        assert unit.range_ == range_
        unit.run(x, x)
    return int(x)


def digits(start: int, stop: int) -> int:
    return int("".join(map(str, range(start, stop))) or 0)


def borders(trunk: Trunk, preprocessing: Preprocessing = PREPROCESSING) -> list[int]:
    return sorted({0, *(range_.stop for range_ in trunk._parts.get(preprocessing, {}))})


@given(forks=st.lists(st.integers(0, SEGMENTS), max_size=8))
def test_cuts_are_only_added_and_parts_cover_every_segment_once(forks: list[int]) -> None:
    trunk, compiler = Trunk(DigitsCompiler(), SEGMENTS, OPTIONS), DigitsCompiler()
    trunk._compiler = compiler
    before: set[int] = set()
    for fork in forks:
        trunk.cut(fork, PREPROCESSING)
        now = borders(trunk)
        assert set(now) == before | {0, fork, SEGMENTS}
        assert now == sorted(set(now))
        assert through(trunk, 0, SEGMENTS) == digits(0, SEGMENTS)
        before = set(now)
    assert len(compiler.made) == len(set(compiler.made))
    assert trunk.size_bytes == sum(map(len, compiler.made))


@given(forks=st.lists(st.integers(0, SEGMENTS), max_size=4), ends=st.tuples(*[st.integers(0, SEGMENTS)] * 2))
def test_a_way_that_nobody_cut_for_is_cut_when_it_is_asked_for(forks: list[int], ends: tuple[int, int]) -> None:
    start, stop = sorted(ends)
    trunk = Trunk(DigitsCompiler(), SEGMENTS, OPTIONS)
    for fork in forks:
        trunk.cut(fork, PREPROCESSING)
    assert through(trunk, start, stop) == digits(start, stop)


def test_parts_that_stay_are_not_compiled_again(compiler: DigitsCompiler) -> None:
    trunk = Trunk(compiler, SEGMENTS, OPTIONS)
    for fork in (4, 4, 6, 0, 6):
        trunk.cut(fork, PREPROCESSING)
    made = [(range_.start, range_.stop) for range_ in compiler.made]
    assert made == [(0, 4), (4, SEGMENTS), (4, 6), (6, SEGMENTS)]


def test_what_ran_in_one_part_does_so_after_a_border_came_in_between(compiler: DigitsCompiler) -> None:
    trunk = Trunk(compiler, SEGMENTS, OPTIONS)
    for fork in (SEGMENTS, 6, 3):
        trunk.cut(fork, PREPROCESSING)
    ways = [[(r.start, r.stop) for r, _ in trunk.units(0, stop, PREPROCESSING)] for stop in (SEGMENTS, 6, 3)]
    assert ways == [[(0, SEGMENTS)], [(0, 6)], [(0, 3)]]
    assert [(r.start, r.stop) for r, _ in trunk.units(3, SEGMENTS, PREPROCESSING)] == [(3, 6), (6, SEGMENTS)]
    assert through(trunk, 3, SEGMENTS) == digits(3, SEGMENTS)


def test_every_preprocessing_has_its_own_parts(compiler: DigitsCompiler) -> None:
    trunk = Trunk(compiler, SEGMENTS, OPTIONS)
    trunk.cut(4, PREPROCESSING)
    trunk.cut(5, OTHER)
    assert borders(trunk) == [0, 4, SEGMENTS]
    assert borders(trunk, OTHER) == [0, 5, SEGMENTS]
    assert trunk.size_bytes == 2 * SEGMENTS


def test_a_cut_that_fails_leaves_the_trunk_as_it_was(compiler: DigitsCompiler) -> None:
    trunk = Trunk(compiler, SEGMENTS, OPTIONS)
    trunk.cut(4, PREPROCESSING)
    compiler.fails = True
    with pytest.raises(ServerError, match="it can not"):
        trunk.cut(2, PREPROCESSING)
    assert borders(trunk) == [0, 4, SEGMENTS]
    assert through(trunk, 0, SEGMENTS) == digits(0, SEGMENTS)


def hammer(trunk: Trunk, seed: int) -> list[int]:
    """What passes of four threads give that is wrong while a fifth cuts at every place."""
    wrong: list[int] = []
    done = threading.Event()

    def passes() -> None:
        while not done.is_set():
            for fork in (0, 3, SEGMENTS):
                got = through(trunk, 0, fork) * 10 ** (SEGMENTS - fork) + through(trunk, fork, SEGMENTS)
                if got != digits(0, SEGMENTS):
                    wrong.append(got)

    threads = [threading.Thread(target=passes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for step in range(SEGMENTS):
        trunk.cut((seed + 4 * step) % SEGMENTS, PREPROCESSING)
    done.set()
    for thread in threads:
        thread.join()
    return wrong


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, SEGMENTS - 1))
def test_passes_that_run_while_it_is_cut_are_right(seed: int) -> None:
    assert hammer(Trunk(DigitsCompiler(), SEGMENTS, OPTIONS), seed) == []


class Careless(Trunk):
    """Takes a part away before those for it are there, and does not look whether its parts cover the way."""

    def _cut(self, fork: int, preprocessing: Preprocessing) -> None:
        parts = self._parts.setdefault(preprocessing, {})
        ends = sorted({0, fork, self._segments, *(part.start for part in parts)})
        wanted = [SegmentRange(start, stop, preprocessing) for start, stop in pairwise(ends)]
        for range_ in set(parts) - set(wanted):
            del parts[range_]
        parts.update({range_: self._compiler.compile(range_, self._options) for range_ in wanted})

    def units(self, start: int, stop: int, preprocessing: Preprocessing) -> list[tuple[SegmentRange, Unit]]:
        parts = sorted(self._parts.get(preprocessing, {}).copy().items(), key=lambda part: part[0].start)
        return [(range_, unit) for range_, unit in parts if start <= range_.start and range_.stop <= stop]


def test_a_trunk_that_shows_half_of_a_new_cut_is_caught() -> None:
    assert hammer(Careless(DigitsCompiler(), SEGMENTS, OPTIONS), seed=1) != []
