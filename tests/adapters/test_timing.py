from __future__ import annotations

import pytest

from lensmount_adapters.timing import Rounds, in_turns


def test_sides_run_in_turns_and_the_first_round_does_not_count() -> None:
    ran: list[str] = []
    sides = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    counts = [len(done.ms["a"]) for done in in_turns(sides, 3)]
    assert counts == [1, 2, 3]
    assert "".join(ran) == "ab" + "ab" + "ba" + "ab"


def test_without_a_warm_up_every_round_counts() -> None:
    ran: list[str] = []
    sides = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    assert [len(done.ms["b"]) for done in in_turns(sides, 2, warm_up=False)] == [1, 2]
    assert "".join(ran) == "ab" + "ba"


def test_a_ratio_is_taken_round_by_round() -> None:
    rounds = Rounds({"a": [2.0, 20.0, 4.0], "b": [1.0, 10.0, 1.0]})
    assert rounds.ratio("a", "b").median == 2.0
    assert rounds.ratio("a", "b").high == 3.0
    assert rounds.of("a").median == 4.0


def test_one_round_has_no_spread() -> None:
    spread = Rounds({"a": [3.0]}).of("a")
    assert (spread.low, spread.median, spread.high) == (3.0, 3.0, 3.0)


def test_what_a_side_raises_is_not_hidden() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(in_turns({"a": fail}, 1))


def test_any_clock_will_do() -> None:
    ticks = iter(range(100))
    done = next(in_turns({"a": lambda: None, "b": lambda: None}, 1, clock=lambda: float(next(ticks))))
    assert (done.ms["a"], done.ms["b"]) == ([1000.0], [1000.0])
