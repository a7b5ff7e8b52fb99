"""The bench as a person runs it, on backbones so small that it takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from factories import random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_training.bench import lora_step
from lensmount_training.bench.case import Case
from lensmount_training.bench.command import train

FAST = "probe,probe_again,tail,lora_step"

Run = Callable[..., str]


@pytest.fixture
def run(weights: Callable[[Backbone], Path], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    file = weights(random_backbone("test_vit"))
    usual = ["--backbone", "test_vit", "--weights", str(file), "--threads", "1", "--rounds", "1", "--pictures", "60"]

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(train, [*usual, "--data", str(digits), *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for every run takes seconds; test_memory has them."""
    peaks = iter([30.0, 60.0] * 9)
    monkeypatch.setattr(lora_step, "peak_mib", lambda _: next(peaks))


def checked(case: dict[str, Any]) -> dict[str, Any]:
    assert case.keys() == {*Case.__dataclass_fields__, "reached"}
    assert case["what"]
    assert case["seconds_low"] <= case["seconds"] <= case["seconds_high"]
    assert case["ratio_low"] <= case["ratio"] <= case["ratio_high"]
    assert case["rival_seconds"] > 0
    return case


def test_json(run: Run, short: None, no_processes: None) -> None:
    report = json.loads(run("--cases", FAST, "--json"))
    assert {name: report[name] for name in ("backbone", "threads", "rounds", "pictures")} == {
        "backbone": "test_vit", "threads": 1, "rounds": 1, "pictures": 60,
    }  # fmt: skip
    cases = {case["name"]: checked(case) for case in report["cases"]}
    assert {name: case["goal"] for name, case in cases.items()} == {
        "probe": 8, "probe_again": 100, "tail": 3, "lora_step": 1.2,
    }  # fmt: skip
    for name in ("probe", "probe_again", "tail"):
        assert 0 < cases[name]["accuracy"] <= 1
        assert 0 < cases[name]["rival_accuracy"] <= 1
        assert cases[name]["memory"] is None
    memory = cases["lora_step"]["memory"]
    assert memory == {
        "mib": 30.0, "rival_mib": 60.0, "ratio": 0.5, "ratio_low": 0.5, "ratio_high": 0.5, "goal": 0.8,
    }  # fmt: skip


def test_people_see_a_table(run: Run, short: None) -> None:
    shown = run("--cases", "tail")
    assert "test_vit on 1 cores, 60 pictures" in shown
    assert "≥ 3×" in shown
    assert "tail: " in shown
    assert "lora_step" not in shown


def test_nothing_is_left_behind(run: Run, short: None, tmp_path: Path) -> None:
    run("--cases", "tail")
    assert not any(path.name.startswith("lensmount-bench-") for path in tmp_path.iterdir())


@pytest.mark.parametrize(("text", "value"), [("probe,speed", "speed"), ("", ""), (",", "")])
def test_cases_that_there_are_not(text: str, value: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        CliRunner().invoke(train, ["--cases", text], catch_exceptions=False)
    assert (caught.value.field, caught.value.value) == ("cases", value)
    assert "probe_again" in (caught.value.fix or "")


@pytest.mark.slow
def test_memory_of_both_sides(run: Run, short: None) -> None:
    (case,) = json.loads(run("--cases", "lora_step", "--json"))["cases"]
    assert 0 < case["memory"]["mib"] < case["memory"]["rival_mib"]
