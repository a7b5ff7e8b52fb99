"""What a recipe leaves open and nothing measures, written out: another release's defaults must not change the run.

Left open stay what a look at the data decides (the format, `strategy: auto` and what it proposes), what the machine
decides (`bf16`), and a setting for which the strategies in question have no one default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lensmount_adapters.backbones import Backbone
from lensmount_training.chooser import BASELINE, FINETUNE, LORA
from lensmount_training.learning import SWEPT_RANK
from lensmount_training.menu import strategy_of
from lensmount_training.recipe import AUTO, Recipe
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora
from lensmount_training.strategies.schedule import Schedule


def settled(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The same run: the backbone by name, absolute paths, and the strategies' defaults for what was not given.

    Raises InvalidInputError for a setting that can not work.
    """
    weights = recipe.weights.absolute() if recipe.weights else None
    found: dict[str, Any] = {"data": recipe.data.absolute(), "backbone": backbone.name, "weights": weights}
    defaults = list(_defaults(recipe))
    for name in type(recipe).model_fields:
        values = {own[name] for own in defaults if name in own}
        if getattr(recipe, name) is None and len(values) == 1:
            found |= {name: values.pop()}
    return recipe.model_copy(update={**found, **_measured(recipe, backbone)})


def _measured(recipe: Recipe, backbone: Backbone) -> Mapping[str, int | str]:
    """How deep and of what rank, where that was left open: a number, or that it is measured."""
    found: dict[str, int | str] = {}
    half = math.ceil(len(backbone.segments) / 2)
    if recipe.last is None and recipe.strategy != BASELINE and not recipe.full:
        found["last"] = AUTO if recipe.measures_depth else half
    if recipe.rank is None and recipe.strategy in (AUTO, LORA):
        found["rank"] = AUTO if recipe.tries_ranks else SWEPT_RANK
    return found


def _defaults(recipe: Recipe) -> Iterator[Mapping[str, object]]:
    """By the recipe's names, what each strategy that may be trained does where the recipe says nothing."""
    names = {AUTO: (BASELINE, FINETUNE, LORA), BASELINE: (BASELINE,)}.get(recipe.strategy, (BASELINE, recipe.strategy))
    for name in names:
        strategy = strategy_of(recipe, name)
        if isinstance(strategy, FeatureExtraction):
            yield {"head": strategy.head, "dropout": strategy.dropout}
        elif isinstance(strategy, FineTune):
            rates = {strategy.shallow_rate, strategy.deep_rate}
            one = {"backbone_rate": rates.pop()} if len(rates) == 1 else {}
            yield {**one, "layer_decay": strategy.layer_decay, **_scheduled(strategy.schedule)}
        elif isinstance(strategy, Lora):
            yield {"targets": strategy.targets, **_scheduled(strategy.schedule)}


def _scheduled(own: Schedule) -> Mapping[str, object]:
    names = ("epochs", "batch", "learning_rate", "warmup", "weight_decay", "label_smoothing")
    return {name: getattr(own, name) for name in names}
