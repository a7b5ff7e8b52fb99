"""A recipe is the same after it was written and read, and says what is wrong with one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lensmount.errors import InvalidInputError
from lensmount_training.recipe import ADVICE, Recipe, make_recipe, read_recipe

recipes = st.builds(
    Recipe,
    data=st.just(Path("parts")),
    task=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    seed=st.integers(0, 2**40),
    strategy=st.sampled_from(["auto", "features", "finetune", "lora"]),
    views=st.lists(st.sampled_from(["identity", "hflip", "vflip"]), min_size=1, max_size=3).map(tuple),
    last=st.one_of(st.none(), st.just("auto"), st.integers(1, 50)),
    learning_rate=st.one_of(st.none(), st.floats(1e-9, 10)),
    require_recall=st.dictionaries(st.text(min_size=1, max_size=10), st.floats(0.01, 1), max_size=3),
    group_by=st.one_of(st.none(), st.text(max_size=10)),
    ema=st.floats(0, 0.999),
)


@given(recipes)
@example(Recipe(data=Path("Straße"), task="grade", group_by="\x85"))
def test_it_comes_back_as_it_was(recipe: Recipe) -> None:
    assert make_recipe(yaml.safe_load(recipe.as_yaml())) == recipe


def test_every_choice_is_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe(data=Path("parts"), task="defect", rank=4).as_yaml())
    assert list(yaml.safe_load(path.read_text())) == list(Recipe.model_fields)
    assert {"data: parts", "seed: 0", "rank: 4", "every: 1.0", "epochs: null"} <= set(path.read_text().splitlines())
    assert read_recipe(path).rank == 4


def test_a_recipe_of_a_few_choices_is_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: parts\ntask: defect\nrank: 4\n")
    assert read_recipe(path) == Recipe(data=Path("parts"), task="defect", rank=4)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"data": "parts", "task": "no name"}, "task"),
        ({"data": "parts", "task": "defect", "strategy": "magic"}, "strategy"),
        ({"data": "parts", "task": "defect", "last": 0}, "last"),
        ({"data": "parts", "task": "defect", "learning_rate": float("nan")}, "learning_rate"),
        ({"data": "parts", "task": "defect", "require_recall": {"crack": 1.5}}, "require_recall"),
        ({"data": "parts", "task": "defect", "epoch": 3}, "epoch"),
        ({"task": "defect"}, "data"),
        ([], "recipe.yaml"),
    ],
)
def test_what_can_not_work_is_named(values: object, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make_recipe(values, "recipe.yaml")
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("last", "-1", "give a whole number from 1, such as 2, or auto"),
        ("last", "abc", "give a whole number from 1, such as 2, or auto"),
        ("rank", "abc", "give a whole number from 1, such as 8, or auto"),
        ("rank", 0, "give a whole number from 1, such as 8, or auto"),
        ("margin", 10.5, "give a share of the box's sides, such as 0.1"),
        ("every", 0, "give seconds, such as 1 or 0.5"),
        ("batch", 0, "give a number such as 8"),
        ("warmup", 1, "give a share such as 0.1, or 0 for none"),
        ("alpha", 0, "give a number such as 16, often twice the rank"),
        ("weight_decay", -1, "give a number such as 0.2, or 0 for none"),
    ],
)
def test_it_is_said_what_to_give_instead(field: str, value: object, fix: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        make_recipe({"data": "parts", "task": "defect", field: value})
    assert (caught.value.field, caught.value.value, caught.value.fix) == (field, str(value), fix)
    assert "Input should be" not in caught.value.message


def test_advice_is_for_fields_that_there_are() -> None:
    assert set(ADVICE) <= set(Recipe.model_fields)


def test_a_margin_is_what_the_audit_takes() -> None:
    assert make_recipe({"data": "parts", "task": "defect", "margin": 1.5}).margin == 1.5


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", None])
def test_a_file_that_is_no_recipe(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="can not be read"):
        read_recipe(path)


def test_code_in_yaml_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("!!python/object/apply:os.mkdir ['" + str(tmp_path / "made") + "']")
    with pytest.raises(InvalidInputError):
        read_recipe(path)
    assert not (tmp_path / "made").exists()
