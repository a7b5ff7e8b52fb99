"""Which options belong to which strategies: one that would do nothing is refused."""

from __future__ import annotations

from lensmount.errors import InvalidInputError
from lensmount_training.chooser import BASELINE, FINETUNE, LORA
from lensmount_training.recipe import AUTO, Recipe
from lensmount_training.strategies import FeatureExtraction

_OF_BOTH = ("last", "mixup", "cutmix", "randaugment")
_OF_LORA = ("rank", "alpha", "targets")
_OF_FINETUNE = ("full", "as_lora", "batch_norm", "backbone_rate", "layer_decay")
# What a head that is solved in one go knows nothing of.
_OF_DESCENTS = (
    *("epochs", "batch", "learning_rate", "warmup", "weight_decay"),
    *("label_smoothing", "ema", "patience", "bf16"),
)
_OWNERS = {
    **dict.fromkeys(_OF_BOTH, (FINETUNE, LORA)),
    **dict.fromkeys(_OF_LORA, (LORA,)),
    **dict.fromkeys(_OF_FINETUNE, (FINETUNE,)),
    **dict.fromkeys(_OF_DESCENTS, (FINETUNE, LORA)),
}
_TRAINED_HEAD = "dropout"


def check_belonging(recipe: Recipe) -> None:
    """Raise InvalidInputError for an option that can do nothing with the strategy that was named.

    With "auto" every strategy may come to be tried. The head is the baseline's, which is always trained.
    """
    for name, owners in _asked(recipe).items():
        if recipe.strategy not in {AUTO, *owners}:
            solved = recipe.strategy == BASELINE and name in _OF_DESCENTS
            others = " or ".join((*owners, "features with --head dropout") if solved else owners)
            message = f"{_flag(recipe, name)} does nothing with --strategy {recipe.strategy}"
            raise _refused(recipe, name, message, f"leave it out, or give --strategy {others}")
    if recipe.dropout not in {None, FeatureExtraction().dropout} and recipe.head != _TRAINED_HEAD:
        raise _refused(recipe, "dropout", "a head that is solved drops nothing", "give --head dropout, too")
    if recipe.strategy == FINETUNE and recipe.last == AUTO:
        fix = "give a number, or --strategy lora; unfreezing stops by itself where it no longer helps"
        raise _refused(recipe, "last", "only LoRA's depth is found by measurement", fix)
    if recipe.strategy == FINETUNE and recipe.full and recipe.last is not None:
        raise _refused(recipe, "last", "--full unfreezes every segment", "leave --last or --full out")


def _asked(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The options that are not at their defaults and belong to some strategies only, with these."""
    fields = type(recipe).model_fields
    own = {name: owners for name, owners in _OWNERS.items() if getattr(recipe, name) != fields[name].default}
    # As a floor for others the head keeps a schedule of its own, which suits it.
    head = (BASELINE,) if recipe.head == _TRAINED_HEAD and recipe.strategy == BASELINE else ()
    return {name: (*head, *owners) if name in _OF_DESCENTS else owners for name, owners in own.items()}


def _flag(recipe: Recipe, name: str) -> str:
    return "--fp32" if name == "bf16" and not recipe.bf16 else f"--{name.replace('_', '-')}"


def _refused(recipe: Recipe, name: str, message: str, fix: str) -> InvalidInputError:
    return InvalidInputError(message, field=name, value=getattr(recipe, name), fix=fix)
