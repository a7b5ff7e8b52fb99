"""What a case says of rounds: ratios round by round, and whether its goals are reached."""

from __future__ import annotations

import json
from dataclasses import replace

from rich.console import Console

from lensmount_adapters.timing import Rounds
from lensmount_training.bench.case import OURS, RIVAL, Known, Peak
from lensmount_training.bench.running import Report
from lensmount_training.bench.table import table_of

ROUNDS = Rounds({OURS: [1000.0, 2000.0, 1000.0], RIVAL: [8000.0, 20000.0, 12000.0]})
FAST = Known("fast", "a case", 10).beside(ROUNDS, accuracy=0.9, rival_accuracy=0.8)


def test_beside_a_rival() -> None:
    assert (FAST.seconds, FAST.rival_seconds) == (1.0, 12.0)
    assert (FAST.ratio_low, FAST.ratio, FAST.ratio_high) == (9.0, 10.0, 11.0)
    assert FAST.as_object()["reached"]
    assert not replace(FAST, goal=10.1).as_object()["reached"]


def test_several_steps_in_a_round() -> None:
    case = Known("step", "a case", 1).beside(ROUNDS, 4)
    assert (case.seconds, case.rival_seconds, case.ratio) == (0.25, 3.0, 10.0)


def test_without_a_rival_the_goal_is_in_seconds() -> None:
    case = Known("alone", "a case", 60).alone([58.0, 70.0, 50.0])
    assert (case.seconds_low, case.seconds, case.seconds_high) == (54.0, 58.0, 64.0)
    assert case.as_object()["reached"]
    assert not replace(case, seconds=60.1).as_object()["reached"]


def test_memory_has_a_goal_of_its_own() -> None:
    assert replace(FAST, memory=Peak(70, 100, 0.7, 0.7, 0.7, 0.8)).as_object()["reached"]
    assert not replace(FAST, memory=Peak(90, 100, 0.9, 0.9, 0.9, 0.8)).as_object()["reached"]


def test_colours_say_what_is_reached() -> None:
    missed = replace(FAST, name="slow", goal=20)
    alone = Known("alone", "a case", 60).alone([70.0])
    report = Report("test_vit", 2, 3, 60, (FAST, missed, alone))
    console = Console(force_terminal=True, color_system="standard", width=160, record=True)
    with console.capture() as shown:
        console.print(table_of(report))
    rows = {line.split(" ")[0]: line for line in shown.get().splitlines()}
    assert "\x1b[32m10.00×" in rows["fast"]
    assert "\x1b[31m10.00×" in rows["slow"]
    assert "\x1b[31m70" in rows["alone"]
    assert "≤ 60 s" in rows["alone"]
    assert json.loads(json.dumps(report.as_object()))["cases"][0]["name"] == "fast"
