"""From a recipe to the strategies that it names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lensmount_training.chooser import BASELINE, FINETUNE
from lensmount_training.recipe import Recipe
from lensmount_training.strategies import FeatureExtraction, FineTune, Lora
from lensmount_training.strategies.augment import Augment
from lensmount_training.strategies.schedule import Schedule

Named = FeatureExtraction | FineTune | Lora


def strategy_of(
    recipe: Recipe, name: str, last: int | None = None, *, full: bool = False
) -> FeatureExtraction | FineTune | Lora:
    """The strategy of that name with the recipe's settings; `last` segments edited, where it edits any.

    Raises InvalidInputError for a setting that can not work.
    """
    if name == BASELINE:
        usual = FeatureExtraction().schedule
        # As a floor for others it keeps a schedule that suits a head.
        alone = recipe.strategy == BASELINE
        schedule = _schedule(recipe, usual) if alone else replace(usual, class_weights=recipe.class_weights)
        return FeatureExtraction(recipe.views, **_given(head=recipe.head, dropout=recipe.dropout), schedule=schedule)
    own: dict[str, Any] = {"views": recipe.views, "last_segments": last, "augment": _augment(recipe)}
    if name == FINETUNE:
        rates = _given(
            shallow_rate=recipe.backbone_rate, deep_rate=recipe.backbone_rate, layer_decay=recipe.layer_decay
        )
        own |= {**rates, "full": full, "batch_norm": recipe.batch_norm, "as_lora": recipe.as_lora}
        return FineTune(**own, schedule=_schedule(recipe, FineTune().schedule))
    rank = None if recipe.rank == "auto" else recipe.rank
    own |= {**_given(targets=recipe.targets), "rank": rank, "alpha": recipe.alpha}
    return Lora(**own, schedule=_schedule(recipe, Lora().schedule))


def _schedule(recipe: Recipe, usual: Schedule) -> Schedule:
    names = ("epochs", "batch", "learning_rate", "warmup", "weight_decay", "label_smoothing")
    always = {name: getattr(recipe, name) for name in ("class_weights", "ema", "patience", "bf16")}
    return replace(usual, **_given(**{name: getattr(recipe, name) for name in names}), **always)


def _augment(recipe: Recipe) -> Augment:
    return Augment(randaugment=recipe.randaugment, mixup=recipe.mixup, cutmix=recipe.cutmix)


def _given(**values: Any) -> dict[str, Any]:
    """Those that are not left to the strategy."""
    return {name: value for name, value in values.items() if value is not None}
