"""Every choice of a run, as YAML that makes the run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lensmount.errors import InvalidInputError
from lensmount_adapters.manifest import TaskName
from lensmount_training.data.formats import MAX_MARGIN, ListingOptions

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Recall = Annotated[float, Field(gt=0, le=1)]
Margin = Annotated[float, Field(ge=0, le=MAX_MARGIN)]
StrategyName = Literal["auto", "features", "finetune", "lora"]

AUTO = "auto"
# Where a package keeps its recipe among its settings.
RECIPE = "recipe"

_RATE = ("a number above 0 expected", "give a number such as 0.001")
_SHARE = ("0 to below 1 expected", "give a share such as 0.1, or 0 for none")
_COUNT = ("a whole number from 1 expected", "give a number such as 8")
_ALPHA = ("0 or more expected", "give a number such as 0.2, or 0 for none")
_NAME = "use letters, digits, '.', '_' and '-', 64 at most, starting with a letter or digit"
# By field: what is wrong with a value, and what to give instead.
ADVICE = {
    "task": ("not a task name", _NAME),
    "require_recall": ("not a required recall", "give LABEL=SHARE, for example crack=0.98"),
    "last": ("a number of segments, or auto, expected", "give a whole number from 1, such as 2, or auto"),
    "rank": ("a rank, or auto, expected", "give a whole number from 1, such as 8, or auto"),
    "strategy": ("no such strategy", "choose from auto, features, finetune and lora"),
    "head": ("no such head", "choose from probe and dropout"),
    "margin": (f"0 to {MAX_MARGIN} expected", "give a share of the box's sides, such as 0.1"),
    "every": ("seconds above 0 expected", "give seconds, such as 1 or 0.5"),
    "seed": ("a whole number from 0 expected", "give a number such as 0"),
    "patience": ("a whole number from 0 expected", "give a number of epochs such as 5, or 0 for never"),
    "randaugment": ("a magnitude from 0 to 30 expected", "give a whole number such as 9, or 0 for none"),
    **dict.fromkeys(("learning_rate", "backbone_rate"), _RATE),
    "alpha": ("a number above 0 expected", "give a number such as 16, often twice the rank"),
    "layer_decay": ("a number above 0 expected", "give a share such as 0.75, or 1 for none"),
    **dict.fromkeys(("dropout", "warmup", "label_smoothing", "ema"), _SHARE),
    **dict.fromkeys(("epochs", "batch"), _COUNT),
    **dict.fromkeys(("mixup", "cutmix", "weight_decay"), _ALPHA),
}


class Recipe(BaseModel):
    """What `lensmount train` was asked for; what is None is chosen by the strategy, "auto" by measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path
    task: TaskName
    format: str | None = None
    group_by: str | None = None
    every: Positive = 1.0
    margin: Margin = 0.0
    backbone: str = "auto"
    weights: Path | None = None
    seed: int = Field(default=0, ge=0)
    strategy: StrategyName = "auto"
    full: bool = False
    head: Literal["probe", "dropout"] | None = None
    dropout: Share | None = None
    views: tuple[str, ...] = ("identity", "hflip")
    last: Count | Auto | None = None
    rank: Count | Auto | None = None
    alpha: Positive | None = None
    targets: str | None = None
    epochs: Count | None = None
    batch: Count | None = None
    learning_rate: Positive | None = None
    backbone_rate: Positive | None = None
    layer_decay: Positive | None = None
    warmup: Share | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    label_smoothing: Share | None = None
    class_weights: bool = True
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    randaugment: Annotated[int, Field(ge=0, le=30)] = 0
    ema: Share = 0.0
    patience: Annotated[int, Field(ge=0)] = 0
    bf16: bool | None = None
    batch_norm: bool = False
    as_lora: bool = False
    audit: bool = True
    require_recall: dict[str, Recall] = {}

    @property
    def measures_depth(self) -> bool:
        """Whether LoRA goes as deep as measurement says: where that is asked for, or all is left to it."""
        return self.last == AUTO or (self.strategy == AUTO and self.last is None)

    @property
    def tries_ranks(self) -> bool:
        """Whether LoRA's rank is chosen by validation. Where all is left to measurement its depth is, not both."""
        return self.rank == AUTO or (self.rank is None and not (self.strategy == AUTO and self.measures_depth))

    def as_yaml(self) -> str:
        """Every choice, those that are left open as null: another release may have other defaults."""
        values = self.model_dump(mode="json")
        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        if yaml.safe_load(text) != values:  # PyYAML folds Unicode's own line breaks unless they are escaped
            text = yaml.safe_dump(values, sort_keys=False)
        return text


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises InvalidInputError that names the first field that is wrong."""
    fix = "give the recipe.yaml of a run, or options instead"
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError("the recipe can not be read", field="recipe", value=path, fix=fix) from error
    return make_recipe(values, path.name)


def parse_recipe(text: str) -> Recipe:
    """A recipe of YAML, as a package holds it; raises InvalidInputError."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        message, fix = "the package's recipe can not be read", "train it again"
        raise InvalidInputError(message, field=RECIPE, fix=fix) from error
    return make_recipe(values, RECIPE)


def listing_options(recipe: Recipe) -> ListingOptions:
    """How the recipe's data are listed; raises InvalidInputError for what can not work."""
    return ListingOptions(recipe.format, recipe.group_by, recipe.every, recipe.margin)


def make_recipe(values: object, name: str = "") -> Recipe:
    """A recipe of plain values; raises InvalidInputError that names the first field that is wrong."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"][:1]) or name
        value = first["input"] if isinstance(first["input"], str | int | float) else ""
        own = (first["msg"], "see `lensmount train --help`")
        message, fix = own if first["type"] == "missing" else ADVICE.get(field, own)
        raise InvalidInputError(message, field=field, value=value, fix=fix) from error
