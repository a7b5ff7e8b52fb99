"""A training that was killed goes on to the same bits, and none goes on that is another's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from children import with_tests
from lensmount.errors import InvalidInputError
from lensmount_training.context import Context
from lensmount_training.strategies import FeatureExtraction, Lora, Problem
from lensmount_training.strategies.checkpoint import FILE, Checkpoint
from lensmount_training.strategies.schedule import Schedule
from problems import hard_problem

RESUMING = Path(__file__).parents[2] / "resuming.py"
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resumed")


@pytest.fixture(scope="module")
def attempts(folder: Path) -> dict[str, dict[str, list[int]]]:
    """How all attempts of all strategies ended, and how many steps they made."""
    done = subprocess.run(
        [sys.executable, str(RESUMING), str(folder)], env=with_tests(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[int]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("strategy", ["lora", "features", "finetune", "batchnorm"])
def test_killed_four_times_it_ends_with_the_same_bits(
    strategy: str, attempts: dict[str, dict[str, list[int]]], folder: Path
) -> None:
    found = attempts[strategy]
    assert found["ends"] == [0, KILLED, KILLED, KILLED, KILLED, 0]
    whole, last = (torch.load(folder / strategy / name, weights_only=True) for name in ("whole.pt", "last.pt"))
    assert whole.keys() == last.keys()
    assert [name for name in whole if not torch.equal(whole[name], last[name])] == []
    assert found["steps"][-1] < found["steps"][0]


def test_without_checkpoints_it_starts_anew(attempts: dict[str, dict[str, list[int]]]) -> None:
    """The negative control: the last attempt makes all steps again."""
    found = attempts["control"]
    assert found["ends"] == [0, KILLED, 0, KILLED, 0, 0]  # nothing is synced, so only steps can be its death
    assert found["steps"][-1] == found["steps"][0]


@pytest.fixture
def problem() -> Problem:
    return hard_problem(count=12)


def head(**changes: Any) -> FeatureExtraction:
    return FeatureExtraction(head="dropout", schedule=Schedule(**{"epochs": 2, "least_steps": 1, **changes}))


@pytest.mark.parametrize(
    "changed",
    [
        lambda problem: (head(learning_rate=1e-4), problem),
        lambda problem: (replace(head(), dropout=0.1), problem),
        lambda problem: (head(), replace(problem, seed=1)),
        lambda problem: (head(), replace(problem, labels=("x", "b", "c"))),
        lambda problem: (head(), replace(problem, train=problem.train.select(range(11)))),
        lambda problem: (head(), replace(problem, validation=problem.validation.select(range(11)))),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    changed: Callable[[Problem], tuple[FeatureExtraction, Problem]], problem: Problem, tmp_path: Path
) -> None:
    context = Context(cache=tmp_path / "cache", checkpoints=tmp_path / "kept")
    head().train(problem, context)
    head().train(problem, context)  # the control: its own is taken
    strategy, other = changed(problem)
    with pytest.raises(InvalidInputError, match="of another training") as caught:
        strategy.train(other, context)
    assert caught.value.field == "resume"
    assert caught.value.fix


def test_ranks_have_checkpoints_of_their_own(problem: Problem, tmp_path: Path) -> None:
    context = Context(cache=tmp_path / "cache", checkpoints=tmp_path / "kept")
    Lora(last_segments=2, schedule=Schedule(epochs=1, least_steps=1)).train(problem, context)
    assert {path.parent.name for path in context.checkpoints.rglob(FILE)} == {"rank-4", "rank-8", "rank-16"}  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:0], lambda data: b"\x00" * len(data)])
def test_a_damaged_checkpoint_is_named(damage: Callable[[bytes], bytes], problem: Problem, tmp_path: Path) -> None:
    context = Context(cache=tmp_path / "cache", checkpoints=tmp_path / "kept")
    head().train(problem, context)
    path = tmp_path / "kept" / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidInputError, match="can not be read") as caught:
        head().train(problem, context)
    assert caught.value.field == "resume"


def test_code_in_a_checkpoint_is_not_run(problem: Problem, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"identity": "{}", "state": Evil()}, tmp_path / FILE)
    with pytest.raises(InvalidInputError, match="can not be read"):
        Checkpoint(tmp_path, problem, {}).load()
    assert not (tmp_path / "touched").exists()


def test_a_disk_that_can_not_hold_it_is_named(problem: Problem, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="can not be written") as caught:
        Checkpoint(tmp_path / "file" / "below", problem, {}).save({})
    assert caught.value.field == "out"


def test_without_a_folder_nothing_is_kept(problem: Problem, tmp_path: Path) -> None:
    checkpoint = Checkpoint(None, problem, {})
    checkpoint.save({"a": 1})
    assert checkpoint.load() is None
