"""A plan counts the pictures that will be trained on, and every descent that may be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from factories import random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_training.data.folder import list_folder
from lensmount_training.estimate import BOTH_WAYS, Sizes, Span, sizes_of, trained
from lensmount_training.recipe import make_recipe
from lensmount_training.strategies.whole import blocks

# 320 pictures are ten steps an epoch, so that ten epochs are ten.
SIZES = Sizes(train=320, validation=60, sealed=100, smallest=100)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


def spent(backbone: Backbone, strategy: str, *, full: bool = False, **choices: Any) -> Span:
    """Of a backbone whose segments all take a second a picture."""
    recipe = make_recipe({"data": "x", "task": "x", "strategy": strategy, "epochs": 10, **choices})
    return trained(recipe, strategy, SIZES, backbone, [1.0] * len(backbone.segments), full=full)


def test_pictures_are_counted_as_the_split_will_have_them(digits: Path) -> None:
    assert sizes_of(list_folder(digits)) == Sizes(train=60, validation=12, sealed=18, smallest=20)


def test_everything_at_once_is_every_segment(backbone: Backbone) -> None:
    span = spent(backbone, "finetune", full=True)
    assert span.what == "10 epochs of the last 8 of 8 segments"
    assert span.low == span.high == 10 * (BOTH_WAYS * 320 + 60) * 8


def test_unfreezing_is_a_descent_a_step_and_the_first_may_be_the_last(backbone: Backbone) -> None:
    span = spent(backbone, "finetune", last=5)
    forks = [fork for fork in blocks(backbone) if fork >= 3]
    steps = [(320 * 2 + 60) * fork + 10 * (BOTH_WAYS * 320 + 60) * (8 - fork) for fork in forks]
    assert len(steps) > 2
    assert (span.low, span.high) == (steps[0], sum(steps))
    assert "as long as it helps" in span.what


def test_early_stopping_may_be_early(backbone: Backbone) -> None:
    span = spent(backbone, "lora", rank=4, last=2, patience=2)
    prefix, epoch = (320 * 2 + 60) * 6, (BOTH_WAYS * 320 + 60) * 2
    assert (span.low, span.high) == (prefix + 3 * epoch, prefix + 10 * epoch)


def test_what_changes_pixels_runs_the_frozen_prefix_in_every_epoch(backbone: Backbone) -> None:
    cached, anew = (spent(backbone, "lora", rank=4, last=2, mixup=own) for own in (0.0, 0.2))
    assert anew.high - cached.high == 10 * 320 * 6 - 320 * 2 * 6


def test_ranks_are_tried_at_the_depth_that_is_taken(backbone: Backbone) -> None:
    one = spent(backbone, "lora", last="auto", rank=4)
    ranks = spent(backbone, "lora", last="auto")
    assert one.low == one.high == ranks.low
    assert ranks.high - ranks.low == 3 * 10 * (BOTH_WAYS * 320 + 60) * 8
    assert ranks.what.endswith("then 3 ranks of one")
