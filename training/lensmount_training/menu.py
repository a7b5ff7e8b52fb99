"""From a recipe to the strategies that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lensmount_training.chooser import BASELINE, FINETUNE
from lensmount_training.recipe import Recipe
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora, Strategy
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.schedule import Schedule


def strategy_of(recipe: Recipe, name: str, last: int | None = None, *, full: bool = False) -> Strategy:
    """The strategy of that name with the recipe's settings; `last` segments edited, where it edits any.

    Raises InvalidInputError for a setting that can not work.
    """
    if name == BASELINE:
        return FeatureExtraction(views=recipe.views)
    own = {"views": recipe.views, "last_segments": last, "augment": _augment(recipe)}
    if name == FINETUNE:
        rate = recipe.backbone_rate
        rates = _given(shallow_rate=rate, deep_rate=rate, layer_decay=recipe.layer_decay)
        flags = {"full": full, "batch_norm": recipe.batch_norm, "as_lora": recipe.as_lora}
        return FineTune(**own, **rates, **flags, schedule=_schedule(recipe, FineTune().schedule))
    rank = None if recipe.rank == "auto" else recipe.rank or Lora.default_rank
    return Lora(**own, **_given(targets=recipe.targets), rank=rank, schedule=_schedule(recipe, Lora().schedule))


def _schedule(recipe: Recipe, usual: Schedule) -> Schedule:
    asked = _given(epochs=recipe.epochs, learning_rate=recipe.learning_rate, label_smoothing=recipe.label_smoothing)
    return Schedule(**{**vars(usual), **asked, "ema": recipe.ema})


def _augment(recipe: Recipe) -> Augment:
    return Augment(randaugment=recipe.randaugment, mixup=recipe.mixup, cutmix=recipe.cutmix)


def _given(**values: Any) -> Mapping[str, Any]:
    """Those that are not left to the strategy."""
    return {name: value for name, value in values.items() if value is not None}
