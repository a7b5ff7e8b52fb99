"""Every strategy learns real pictures: small ones on small backbones, and those that people have on trained ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from factories import random_backbone
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_training.context import Context
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import read
from lensmount_training.evaluation.predicting import predict
from lensmount_training.progress import NoProgress
from lensmount_training.strategies import FeatureExtraction, FineTune, FromScratch, Lora, Problem, Strategy
from lensmount_training.strategies.schedule import Schedule

OURS = Path(os.environ.get("LENSMOUNT_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
SHORT = Schedule(epochs=6, least_steps=1, batch=16, learning_rate=5e-3)


def problem_of(folder: Path, backbone: Backbone, cache: Path, per_label: int = 999) -> Problem:
    """Every fourth picture of each label to choose by."""
    dataset = read(list_folder(folder), backbone.preprocessing, cache, NoProgress())
    labels = range(len(dataset.labels))
    files = [[own.file for own in dataset.pictures if own.labels == (label,)][:per_label] for label in labels]
    held = {file for own in files for file in own[::4]}
    train = dataset.take([file for own in files for file in own if file not in held])
    return Problem(backbone, dataset.labels, train, dataset.take(sorted(held)), seed=0)


def accuracy(strategy: Strategy, problem: Problem, context: Context) -> float:
    trained = strategy.train(problem, context)
    logits = predict(trained.forward, problem.backbone, problem.validation, NoProgress())
    return float((logits.argmax(1) == problem.validation.targets).double().mean())


@pytest.mark.parametrize(
    ("strategy", "floor"),
    [
        (FeatureExtraction(("identity",)), 0.8),
        (FeatureExtraction(("identity",), head="dropout"), 0.7),
        (Lora(rank=4, last_segments=3, views=("identity",), schedule=SHORT), 0.8),
        (FineTune(last_segments=3, shallow_rate=1e-3, views=("identity",), schedule=SHORT), 0.8),
        (FromScratch(("identity",), schedule=Schedule(epochs=10, least_steps=1, batch=16, learning_rate=1e-3)), 0.6),
    ],
)
def test_digits(strategy: Strategy, floor: float, digits: Path, tmp_path: Path) -> None:
    """A third by guessing; what was reached when this was written is 0.1 or more above the floor."""
    problem = problem_of(digits, random_backbone("test_vit"), tmp_path)
    assert accuracy(strategy, problem, Context(cache=tmp_path)) >= floor


@pytest.mark.slow
@pytest.mark.skipif(
    not (OURS / "deeppcb_patches").is_dir(), reason="no test data; set LENSMOUNT_TEST_DATA to their folder"
)
@pytest.mark.parametrize(
    ("strategy", "floor"),
    [
        (FeatureExtraction(), 0.6),
        (FeatureExtraction(head="dropout"), 0.6),
        (Lora(rank=8, last_segments=5), 0.7),
        (FineTune(last_segments=3), 0.62),
    ],
)
def test_defects_of_circuit_boards(strategy: Strategy, floor: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Six kinds, 30 pictures of each to learn from; a sixth by guessing."""
    cache = tmp_path_factory.getbasetemp() / "boards"
    problem = problem_of(OURS / "deeppcb_patches", load_backbone("tf_efficientnet_lite0"), cache, per_label=40)
    assert accuracy(strategy, problem, Context(cache=cache)) >= floor
