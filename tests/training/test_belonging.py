"""An option that can do nothing is refused where a strategy was named."""

from __future__ import annotations

from typing import Any

import pytest

from lensmount.errors import InvalidInputError
from lensmount_training.belonging import check_belonging
from lensmount_training.recipe import Recipe, make_recipe

LORA = {"rank": 8, "alpha": 4.0, "targets": "qkv"}
FINETUNE = {"full": True, "as_lora": True, "batch_norm": True, "backbone_rate": 0.1, "layer_decay": 0.5}
DESCENT = {
    "epochs": 3,
    "batch": 16,
    "learning_rate": 0.1,
    "warmup": 0.2,
    "weight_decay": 0.1,
    "label_smoothing": 0.2,
    "ema": 0.9,
    "patience": 2,
    "bf16": False,
}
BOTH = {"last": 2, "mixup": 0.2, "cutmix": 0.2, "randaugment": 5}
EVERYWHERE = {"views": ("identity",), "class_weights": False, "head": "probe", "seed": 3}


def recipe(strategy: str, **choices: Any) -> Recipe:
    return make_recipe({"data": "parts", "task": "defect", "strategy": strategy, **choices})


@pytest.mark.parametrize(
    ("strategy", "others", "belongs"),
    [
        ("features", LORA, "lora"),
        ("finetune", LORA, "lora"),
        ("features", FINETUNE, "finetune"),
        ("lora", FINETUNE, "finetune"),
        ("features", BOTH, "finetune or lora"),
        ("features", DESCENT, "finetune or lora or features with --head dropout"),
    ],
)
def test_what_belongs_elsewhere_is_refused_by_name(strategy: str, others: dict[str, Any], belongs: str) -> None:
    for name, value in others.items():
        with pytest.raises(InvalidInputError, match=f"does nothing with --strategy {strategy}") as caught:
            check_belonging(recipe(strategy, **{name: value}))
        assert caught.value.field == name
        assert caught.value.fix == f"leave it out, or give --strategy {belongs}"


@pytest.mark.parametrize(
    ("strategy", "choices"),
    [
        ("lora", LORA | DESCENT | BOTH | EVERYWHERE | {"last": "auto"}),
        ("finetune", FINETUNE | DESCENT | EVERYWHERE),
        ("finetune", BOTH | DESCENT | EVERYWHERE),
        ("features", EVERYWHERE),
        ("features", {"head": "probe", "dropout": 0.3}),
        ("features", DESCENT | {"head": "dropout", "dropout": 0.4}),
        ("auto", LORA | FINETUNE | DESCENT | BOTH | EVERYWHERE),
    ],
)
def test_what_belongs_is_taken(strategy: str, choices: dict[str, Any]) -> None:
    check_belonging(recipe(strategy, **choices))


@pytest.mark.parametrize(
    ("strategy", "choices", "field"),
    [
        ("features", {"dropout": 0.4}, "dropout"),
        ("finetune", {"last": "auto"}, "last"),
        ("finetune", {"last": 2, "full": True}, "last"),
    ],
)
def test_what_another_choice_makes_idle_is_refused(strategy: str, choices: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_belonging(recipe(strategy, **choices))
    assert caught.value.field == field
    assert caught.value.fix


def test_every_choice_that_was_made_is_known() -> None:
    """The control: nothing is refused for being at its default, and no name above is misspelt."""
    for strategy in ("auto", "features", "finetune", "lora"):
        plain = recipe(strategy)
        check_belonging(make_recipe(plain.model_dump()))
    assert set(LORA | FINETUNE | DESCENT | BOTH | EVERYWHERE) < set(Recipe.model_fields)
