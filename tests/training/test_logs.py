"""Scalars go to TensorBoard as they come; a finished run goes to MLflow where that is asked for."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lensmount.errors import MissingExtraError, UnavailableError
from lensmount_training.logs import tensorboard, to_mlflow
from lensmount_training.recipe import Recipe

RECIPE = Recipe(data=Path("parts"), task="defect", require_recall={"crack <": 0.9})


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path]:
    package, report = tmp_path / "defect", tmp_path / "report.html"
    package.mkdir()
    (package / "task.json").write_text("{}")
    report.write_text("<html>")
    return package, report


def test_scalars_can_be_read_by_tensorboard(tmp_path: Path) -> None:
    with tensorboard(tmp_path) as log:
        for step in range(3):
            log("lora/loss", 1 / (step + 1), step)
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(own.step, round(own.value, 3)) for own in read.Scalars("lora/loss")] == [(0, 1.0), (1, 0.5), (2, 0.333)]


def test_without_mlflow_the_extra_is_named(run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *own: Any, **others: Any) -> Any:
        if name == "mlflow":
            raise ImportError(name)
        return found(name, *own, **others)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError) as caught:
        to_mlflow("sqlite:///mlflow.db", RECIPE, {}, *run)
    assert "lensmount[mlflow]" in caught.value.fix


def test_a_run_in_mlflow(run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    to_mlflow(address, RECIPE, {"accuracy": 0.9, "recall.crack <": 0.5}, *run)
    (found,) = mlflow.search_runs(experiment_names=["defect"], output_format="list")
    assert found.data.metrics == {"accuracy": 0.9, "recall.crack _": 0.5}
    assert found.data.params["task"] == "defect"
    with pytest.raises(UnavailableError, match="MLflow did not take the run"):
        to_mlflow("nowhere://else", RECIPE, {}, *run)
