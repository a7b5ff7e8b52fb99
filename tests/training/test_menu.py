"""What a recipe says reaches the strategies that it is for, and no others."""

from __future__ import annotations

from typing import Any

from lensmount_training.menu import Named, strategy_of
from lensmount_training.recipe import make_recipe
from lensmount_training.strategies import FeatureExtraction, Lora


def made(strategy: str, name: str, **choices: Any) -> Named:
    return strategy_of(make_recipe({"data": "parts", "task": "defect", "strategy": strategy, **choices}), name)


def test_a_trained_head_has_the_schedule_that_was_asked_for() -> None:
    own = made("features", "features", head="dropout", epochs=3, learning_rate=0.1, ema=0.9).schedule
    assert (own.epochs, own.learning_rate, own.ema) == (3, 0.1, 0.9)


def test_as_a_floor_it_keeps_its_own_but_for_what_a_picture_counts() -> None:
    own = made("lora", "features", head="dropout", epochs=3, learning_rate=1e-6, class_weights=False).schedule
    usual = FeatureExtraction().schedule
    assert (own.epochs, own.learning_rate) == (usual.epochs, usual.learning_rate)
    assert not own.class_weights


def test_lora_has_its_alpha_and_all_have_their_steps() -> None:
    lora = made("lora", "lora", rank=4, alpha=6.0, batch=16, warmup=0.3, weight_decay=0.2)
    assert isinstance(lora, Lora)
    assert (lora.rank, lora.alpha) == (4, 6.0)
    assert (lora.schedule.batch, lora.schedule.warmup, lora.schedule.weight_decay) == (16, 0.3, 0.2)
    assert made("lora", "lora").schedule == Lora().schedule
