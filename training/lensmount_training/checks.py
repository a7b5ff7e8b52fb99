"""Whether a recipe can work, found out before a picture is opened or anything is trained."""

from __future__ import annotations

from lensmount_adapters.backbones import Backbone
from lensmount_training.belonging import check_belonging
from lensmount_training.chooser import BASELINE, FINETUNE, LORA
from lensmount_training.depth import usual_depths
from lensmount_training.menu import strategy_of
from lensmount_training.recipe import AUTO, Recipe


def check_settings(recipe: Recipe) -> None:
    """Raise InvalidInputError for settings that can not work whatever the data and the backbone are."""
    check_belonging(recipe)
    for name in strategies_of(recipe):
        strategy_of(recipe, name)


def check_fits(recipe: Recipe, backbone: Backbone) -> None:
    """Raise InvalidInputError for settings of any strategy that may be tried and does not fit the backbone."""
    last = recipe.last if isinstance(recipe.last, int) else None
    for name in strategies_of(recipe):
        measured = name == LORA and recipe.measures_depth
        for depth in usual_depths(backbone)[1:] if measured else (last,):
            strategy_of(recipe, name, depth, full=recipe.full).check(backbone)


def strategies_of(recipe: Recipe) -> tuple[str, ...]:
    """All that may be trained, the baseline first."""
    if recipe.strategy == AUTO:
        return (BASELINE, FINETUNE, LORA)
    return (BASELINE,) if recipe.strategy == BASELINE else (BASELINE, recipe.strategy)
