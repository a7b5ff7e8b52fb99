"""A settled recipe makes the same run, whatever a later release's defaults are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from factories import random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_training import menu
from lensmount_training.menu import strategy_of
from lensmount_training.recipe import Recipe, make_recipe
from lensmount_training.settling import settled
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora
from lensmount_training.strategies.schedule import Schedule

CHOICES: list[dict[str, Any]] = [
    {},
    {"last": 2},
    {"last": "auto"},
    {"rank": "auto"},
    {"strategy": "features"},
    {"strategy": "features", "head": "dropout"},
    {"strategy": "finetune"},
    {"strategy": "finetune", "full": True, "learning_rate": 0.5},
    {"strategy": "lora"},
    {"strategy": "lora", "rank": 4, "epochs": 3, "targets": "qkv"},
    {"strategy": "lora", "last": "auto"},
]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


def recipe(choices: dict[str, Any]) -> Recipe:
    return make_recipe({"data": "parts", "task": "digit", "weights": "own.safetensors", **choices})


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_it_is_the_same_run(choices: dict[str, Any], backbone: Backbone) -> None:
    before, after = recipe(choices), settled(recipe(choices), backbone)
    assert settled(after, backbone) == after
    assert (after.measures_depth, after.tries_ranks) == (before.measures_depth, before.tries_ranks)
    for name in ("features", "finetune", "lora"):
        if before.strategy in ("auto", name):
            assert strategy_of(after.model_copy(update={"rank": before.rank}), name) == strategy_of(before, name)
    assert {name: getattr(after, name) for name in choices} == choices


def test_paths_and_the_backbone_are_found_from_anywhere(backbone: Backbone) -> None:
    own = settled(recipe({}), backbone)
    assert own.data == Path.cwd() / "parts"
    assert own.weights == Path.cwd() / "own.safetensors"
    assert own.backbone == "test_vit"


def test_depth_and_rank_are_numbers_or_measured(backbone: Backbone) -> None:
    half = math.ceil(len(backbone.segments) / 2)
    found = {str(choices): settled(recipe(choices), backbone) for choices in CHOICES}
    assert (found["{}"].last, found["{}"].rank) == ("auto", 8)
    assert found["{'last': 2}"].rank == "auto"
    assert found["{'strategy': 'finetune'}"].last == half
    assert (found["{'strategy': 'lora'}"].last, found["{'strategy': 'lora'}"].rank) == (half, "auto")
    assert found["{'strategy': 'features'}"].last is None


def test_other_defaults_do_not_change_it(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [recipe({"strategy": name}) for name in ("features", "lora")]
    before = [strategy_of(settled(own, backbone), own.strategy) for own in asked]
    written = [make_recipe(settled(own, backbone).model_dump(mode="json")) for own in asked]
    later = Schedule(epochs=99, learning_rate=9.0, label_smoothing=0.9)
    monkeypatch.setattr(
        menu, "FeatureExtraction", lambda *own, **given: FeatureExtraction(*own, **{"dropout": 0.9, **given})
    )
    monkeypatch.setattr(menu, "Lora", lambda **given: Lora(**{"targets": "qkv", "schedule": later, **given}))
    assert [strategy_of(own, own.strategy) for own in written] == before
    assert [strategy_of(own, own.strategy) for own in asked] != before


def test_what_has_two_defaults_stays_open(backbone: Backbone) -> None:
    own = settled(recipe({"strategy": "finetune"}), backbone)
    assert FineTune().shallow_rate != FineTune().deep_rate
    assert own.backbone_rate is None
    assert (own.learning_rate, own.epochs) == (1e-3, 8)
    assert settled(recipe({}), backbone).learning_rate is None
