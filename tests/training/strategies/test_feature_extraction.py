"""A head on frozen features, solved or trained with dropout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_training.context import Context
from lensmount_training.strategies import FeatureExtraction, Problem, Trained
from lensmount_training.strategies.feed import PooledFeed
from lensmount_training.strategies.schedule import Schedule
from problems import easy_problem, hard_problem


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(cache=tmp_path)


def accuracy(problem: Problem, trained: Trained) -> float:
    shots = problem.validation
    with torch.no_grad():
        logits = trained.forward(problem.backbone.preprocessing.normalize(shots.pixels[:]))
    if problem.kind == "multi_label":
        return float(((logits > 0) == (shots.targets > 0.5)).double().mean())
    return float((logits.argmax(1) == shots.targets).double().mean())


@pytest.mark.parametrize("head", ["probe", "dropout"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_both_heads_learn(head: Any, kind: Any, context: Context) -> None:
    problem = easy_problem(kind=kind)
    trained = FeatureExtraction(head=head).train(problem, context)
    assert accuracy(problem, trained) >= 0.9
    assert trained.edits == ()
    assert trained.lora is None
    assert trained.settings["head"] == head
    assert fingerprint(problem.backbone.model) == problem.backbone.fingerprint


@pytest.mark.parametrize("head", ["probe", "dropout"])
def test_the_tensors_are_the_head(head: Any, context: Context) -> None:
    problem = hard_problem(count=12)
    backbone = problem.backbone
    trained = FeatureExtraction(head=head).train(problem, context)
    x = backbone.preprocessing.normalize(problem.train.pixels[:4])
    with torch.no_grad():
        features = backbone.pool(backbone.forward_features(x))
        expected = F.linear(features, *(trained.tensors[f"{backbone.classifier}.{own}"] for own in ("weight", "bias")))
        assert torch.equal(trained.forward(x), expected)
    assert len(trained.tensors) == 2


def test_class_weights_help_a_rare_class(context: Context) -> None:
    """Of 24 pictures of one class and 3 of another that look alike, weights move answers towards the few."""
    problem = hard_problem(count=27, labels=2)
    targets = (torch.arange(27) >= 24).long()
    uneven = replace(problem, train=replace(problem.train, targets=targets), validation=problem.train)
    schedule = Schedule(epochs=2, least_steps=1)
    weighted = FeatureExtraction(head="dropout", schedule=schedule).train(uneven, context)
    plain = FeatureExtraction(head="dropout", schedule=replace(schedule, class_weights=False)).train(uneven, context)
    x = problem.backbone.preprocessing.normalize(problem.train.pixels[:])
    with torch.no_grad():
        shares = [own.forward(x).softmax(1)[:, 1].mean() for own in (weighted, plain)]
    assert float(shares[0]) > float(shares[1])


def test_dropped_features_are_drawn_by_place_and_keep_their_mean() -> None:
    feed = PooledFeed(torch.ones(6, 1, 4000), torch.arange(6), torch.device("cpu"), dropout=0.3)
    rows = torch.arange(6)
    whole, _ = feed.batch(rows, 5, rows)
    part, targets = feed.batch(rows, 5, torch.tensor([4, 1]))
    assert torch.equal(part, whole[[4, 1]])
    assert targets.tolist() == [4, 1]
    assert not torch.equal(whole, feed.batch(rows, 6, rows)[0])
    assert float(whole.mean()) == pytest.approx(1, abs=0.02)
    assert float((whole == 0).double().mean()) == pytest.approx(0.3, abs=0.02)
    assert feed.plain(slice(2)).tolist() == torch.ones(2, 4000).tolist()


@pytest.mark.parametrize(("change", "field"), [({"head": "mlp"}, "head"), ({"dropout": 1.0}, "dropout")])
def test_settings_that_can_not_work(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FeatureExtraction(**change)
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize("head", ["probe", "dropout"])
def test_features_that_are_no_numbers_are_refused(head: Any, context: Context) -> None:
    problem = hard_problem(count=9)
    with torch.no_grad():
        next(problem.backbone.model.get_submodule("norm").parameters()).fill_(torch.nan)
    broken = replace(problem, backbone=replace(problem.backbone, fingerprint="0" * 64))
    with pytest.raises(InvalidInputError, match="not finite") as caught:
        FeatureExtraction(head=head).train(broken, context)
    assert caught.value.field == "weights"
