"""Tails come when they are ready, go when there is no room, and one that can not be made is left alone."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from factories import fitted, head_package, random_backbone
from lensmount.errors import ServerError
from lensmount_adapters.adapter import Adapter
from lensmount_server.engine.cpu.tails import IN_USE_S, Tails

LOG = "lensmount_server.engine.cpu.tails"


@dataclass(frozen=True, eq=False)
class Sized:
    """A unit that does nothing but weigh."""

    size_bytes: int
    buckets = (1,)
    row_shape = (1,)

    def run(self, x: Tensor, out: Tensor) -> None:
        raise NotImplementedError

    def run_wide(self, x: Tensor, out: Tensor) -> bool:
        raise NotImplementedError


class Merging:
    """Makes units of the sizes it is told (100 bytes otherwise), waits while it is held, fails with what it is told."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.fails: dict[str, Exception] = {}
        self.made: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, adapter: Adapter) -> Sized:
        self.made.append(adapter.content_hash)
        self.begun.set()
        self.go_on.wait()
        if adapter.content_hash in self.fails:
            raise self.fails[adapter.content_hash]
        return Sized(self.sizes.get(adapter.content_hash, 100))


class Clock:
    """Seconds that pass when they are told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self) -> None:
        self.now += IN_USE_S


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Adapter]:
    folder: Path = tmp_path_factory.mktemp("adapter") / "package"
    backbone = random_backbone("test_resnet")
    head_package(folder, backbone)
    adapter = fitted(folder, backbone)
    return lambda content_hash: replace(adapter, content_hash=content_hash)


@pytest.fixture
def merging() -> Merging:
    return Merging()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tails(merging: Merging, clock: Clock) -> Iterator[Tails]:
    made = Tails(merging, 300, clock)
    yield made
    merging.go_on.set()
    made.close()


Named = Callable[[str], Adapter]


def ready(tails: Tails, named: Named, names: str) -> str:
    """Those of the names whose tail is there, without use."""
    return "".join(name for name in names if name in tails._tails)


def want(tails: Tails, named: Named, names: str) -> None:
    for name in names:
        tails.want(named(name))
        tails.settle()


def test_a_tail_is_there_when_it_is_merged(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    tails.want(named("a"))
    merging.begun.wait()
    assert tails.get(named("a")) is None
    merging.go_on.set()
    tails.settle()
    unit = tails.get(named("a"))
    assert unit is not None
    assert tails.size_bytes == unit.size_bytes == 100
    assert tails.get(named("b")) is None


def test_what_is_wanted_twice_is_merged_once(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    for _ in range(3):
        tails.want(named("a"))
    merging.go_on.set()
    tails.settle()
    want(tails, named, "aaa")
    assert merging.made == ["a"]


def test_the_least_recently_used_goes_first(tails: Tails, named: Named, clock: Clock) -> None:
    want(tails, named, "abc")
    assert tails.get(named("a")) is not None
    clock.wait()
    want(tails, named, "d")
    assert ready(tails, named, "abcd") == "acd"
    want(tails, named, "e")
    assert ready(tails, named, "abcde") == "ade"
    assert tails.size_bytes == 300


def test_a_tail_in_use_is_not_dropped_for_another_and_nothing_is_merged_in_turn(
    tails: Tails, named: Named, clock: Clock, merging: Merging
) -> None:
    """Four hot adapters in a budget for three: one stays in LoRA form until one of the others rests."""
    want(tails, named, "abcd")
    assert ready(tails, named, "abcd") == "abc"
    for _ in range(5):
        clock.now += IN_USE_S / 2
        for name in "abcd":
            if tails.get(named(name)) is None:
                want(tails, named, name)
    assert merging.made == ["a", "b", "c", "d"]
    clock.now += IN_USE_S / 2
    assert all(tails.get(named(name)) for name in "ab")
    clock.now += IN_USE_S / 2
    want(tails, named, "d")
    assert ready(tails, named, "abcd") == "abd"


def settled(tails: Tails, name: str, timeout_s: float | None = None) -> threading.Thread:
    """Somebody who waits for one tail."""
    waiting = threading.Thread(target=tails.settle, args=(name, timeout_s))
    waiting.start()
    while not tails._waited_for[name]:
        time.sleep(0.001)
    return waiting


def test_one_that_is_waited_for_is_merged_next(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    for name in "abc":
        tails.want(named(name))
    assert merging.begun.wait(60)
    waiting = settled(tails, "c")
    merging.go_on.set()
    waiting.join()
    tails.settle()
    assert merging.made == ["a", "c", "b"]
    assert not tails._waited_for


def test_one_that_is_waited_for_takes_the_place_of_one_in_use(
    tails: Tails, named: Named, merging: Merging, clock: Clock
) -> None:
    want(tails, named, "abc")
    merging.go_on.clear()
    merging.begun.clear()
    tails.want(named("d"))
    assert merging.begun.wait(60)
    waiting = settled(tails, "d")
    merging.go_on.set()
    waiting.join()
    assert ready(tails, named, "abcd") == "bcd"


def test_who_waits_does_not_wait_for_ever(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    tails.want(named("a"))
    settled(tails, "a", timeout_s=0.01).join(60)
    assert not tails._waited_for
    assert ready(tails, named, "a") == ""


def test_one_that_is_dropped_is_not_waited_for(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    tails.want(named("a"))
    waiting = settled(tails, "a")
    tails.drop("a")
    waiting.join(60)
    assert not waiting.is_alive()


class Heavy(Sized):
    """Looks, when it is freed, whether somebody could ask for another tail at that moment."""

    def __init__(self, tails: Tails, free: list[bool]) -> None:
        super().__init__(100)
        self.tails, self.free = tails, free

    def __del__(self) -> None:
        self.free.append(not self.tails._lock.locked())


@pytest.mark.parametrize("by", ["drop", "room"])
def test_nobody_waits_for_a_tail_that_is_freed(
    tails: Tails, named: Named, monkeypatch: pytest.MonkeyPatch, clock: Clock, by: str
) -> None:
    free: list[bool] = []
    monkeypatch.setattr(tails, "_merge", lambda _: Heavy(tails, free))
    want(tails, named, "abc")
    if by == "drop":
        tails.drop("a")
    else:
        clock.wait()
        want(tails, named, "d")
    for _ in range(500):
        if free:
            break
        time.sleep(0.01)
    assert free == [True]


def test_one_that_never_fits_is_merged_once(tails: Tails, named: Named, merging: Merging, clock: Clock) -> None:
    merging.sizes["x"] = 301
    want(tails, named, "axx")
    clock.wait()
    want(tails, named, "xx")
    assert merging.made == ["a", "x"]
    assert ready(tails, named, "ax") == "a"


@pytest.mark.parametrize("error", [ServerError("it differs"), RuntimeError("a defect"), MemoryError()])
def test_one_that_can_not_be_merged_is_logged_and_not_tried_again(
    error: Exception, tails: Tails, named: Named, merging: Merging, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    merging.fails["x"] = error
    with caplog.at_level(logging.WARNING, LOG):
        want(tails, named, "xxx")
    clock.wait()
    want(tails, named, "xa")
    assert merging.made == ["x", "a"]
    assert [r.getMessage() for r in caplog.records if r.name == LOG and "answers in LoRA form" in r.getMessage()]
    assert tails.get(named("x")) is None
    assert tails.get(named("a")) is not None


def test_one_that_failed_is_tried_again_when_it_was_dropped_between(
    tails: Tails, named: Named, merging: Merging
) -> None:
    merging.fails["x"] = ServerError("it differs")
    want(tails, named, "x")
    del merging.fails["x"]
    tails.drop("x")
    want(tails, named, "x")
    assert tails.get(named("x")) is not None


def test_what_is_dropped_is_gone(tails: Tails, named: Named) -> None:
    want(tails, named, "ab")
    tails.drop("a")
    tails.drop("unknown")
    assert ready(tails, named, "ab") == "b"
    assert tails.size_bytes == 100


def test_what_is_dropped_while_it_is_merged_does_not_come_back(tails: Tails, named: Named, merging: Merging) -> None:
    merging.go_on.clear()
    tails.want(named("a"))
    tails.want(named("b"))
    merging.begun.wait()
    tails.drop("a")
    tails.drop("b")
    merging.go_on.set()
    tails.settle()
    assert merging.made == ["a"]
    assert tails.size_bytes == 0


def test_what_is_dropped_and_wanted_again_while_it_is_merged_comes(
    tails: Tails, named: Named, merging: Merging
) -> None:
    merging.go_on.clear()
    tails.want(named("a"))
    merging.begun.wait()
    tails.drop("a")
    tails.want(named("a"))
    merging.go_on.set()
    tails.settle()
    assert tails.get(named("a")) is not None
    assert tails.size_bytes == 100


def test_without_a_budget_nothing_is_merged(named: Named, merging: Merging) -> None:
    tails = Tails(merging, 0)
    want(tails, named, "ab")
    tails.close()
    assert merging.made == []


def test_closing_ends_the_thread_after_what_it_is_at(named: Named, merging: Merging) -> None:
    tails = Tails(merging, 300)
    merging.go_on.clear()
    for name in "abc":
        tails.want(named(name))
    merging.begun.wait()
    closing = threading.Thread(target=tails.close)
    closing.start()
    while tails._wanted:
        time.sleep(1e-3)
    merging.go_on.set()
    closing.join()
    assert not tails._worker.is_alive()
    assert merging.made == ["a"]
    assert tails.size_bytes == 0
    tails.settle()


steps = st.lists(st.tuples(st.sampled_from(["want", "get", "drop", "wait"]), st.sampled_from("abcdefg")), max_size=40)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, sizes=st.lists(st.integers(1, 400), min_size=7, max_size=7))
def test_whatever_happens_the_budget_holds_and_units_are_their_adapters_own(
    named: Named, steps: list[tuple[str, str]], sizes: list[int]
) -> None:
    merging, clock = Merging(), Clock()
    merging.sizes = dict(zip("abcdefg", sizes, strict=True))
    tails = Tails(merging, 300, clock)
    for step, name in steps:
        if step == "want":
            want(tails, named, name)
        elif step == "drop":
            tails.drop(name)
        elif step == "wait":
            clock.now += IN_USE_S / 3
        elif (unit := tails.get(named(name))) is not None:
            assert unit.size_bytes == merging.sizes[name]
        assert tails.size_bytes <= 300
        assert tails.size_bytes == sum(merging.sizes[name] for name in tails._tails)
    tails.close()


def test_many_threads_at_once_leave_it_whole(tails: Tails, named: Named, merging: Merging, clock: Clock) -> None:
    def work(seed: int) -> None:
        for step in range(300):
            name = "abcdefg"[(seed + step * (seed + 1)) % 7]
            tails.want(named(name))
            tails.get(named(name))
            if step % 5 == seed:
                tails.drop(name)
            if step % 50 == 0:
                clock.wait()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tails.settle()
    assert tails.size_bytes == 100 * len(tails._tails) <= 300
    clock.wait()
    tails.drop("a")
    want(tails, named, "a")
    assert tails.get(named("a")) is not None
