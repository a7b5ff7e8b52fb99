"""Minimum metrics: how they are written, and what does not reach them."""

from __future__ import annotations

import pytest

from factories import manifest, random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.manifest import Manifest
from lensmount_server.policy import Minimum, Policy, parse_policy


@pytest.fixture(scope="module")
def described() -> Manifest:
    metrics = {"macro_f1": 0.95, "recall.crack": 0.9, "bad": float("-inf")}
    return manifest(random_backbone(), "defect", 3).model_copy(update={"metrics": metrics})


def test_how_minima_are_written() -> None:
    policy = parse_policy(["macro_f1=0.9", " defect:recall.crack=98e-2 ", "scene.v2:loss at 0.5=-1"])
    assert policy.minima == (
        Minimum("macro_f1", 0.9),
        Minimum("recall.crack", 0.98, "defect"),
        Minimum("loss at 0.5", -1, "scene.v2"),
    )


@pytest.mark.parametrize(
    "text",
    ["", "macro_f1", "macro_f1=", "=0.9", "macro_f1=high", "macro_f1=nan", "macro_f1=inf", "a=b=1", "a:b:c=1", ":a=1",
     "defect:=1", "de fect:a=1"],
)  # fmt: skip
def test_what_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_policy(["macro_f1=0.5", text])
    assert (caught.value.field, caught.value.value) == ("minimum_metric", text)
    assert "macro_f1=0.9" in caught.value.fix


def test_a_metric_has_one_minimum_for_each_task() -> None:
    assert len(parse_policy(["a=1", "defect:a=2", "scene:a=3"]).minima) == 3
    with pytest.raises(InvalidInputError, match="given twice") as caught:
        parse_policy(["defect:a=1", "defect:a=2"])
    assert caught.value.fix


def test_without_minima_every_package_passes(described: Manifest) -> None:
    assert Policy().check(described) == "no minimum for this task"
    assert parse_policy(["scene:macro_f1=1"]).check(described) == "no minimum for this task"


def test_what_is_reached_is_told(described: Manifest) -> None:
    assert parse_policy(["macro_f1=0.95", "defect:recall.crack=0.5"]).check(described) == (
        "macro_f1 0.95 of 0.95, recall.crack 0.9 of 0.5"
    )


@pytest.mark.parametrize(
    ("texts", "metric", "value", "minimum"),
    [
        (["macro_f1=0.96"], "macro_f1", "0.95", "at least 0.96 for all tasks"),
        (["macro_f1=0.9", "defect:recall.crack=0.98"], "recall.crack", "0.9", "at least 0.98 for defect"),
        (["accuracy=0.5"], "accuracy", "", "missing; .* at least 0.5 for all tasks"),
        (["bad=-1e308"], "bad", "-inf", "at least -1e+308"),
    ],
)
def test_what_is_not_reached_is_refused(
    described: Manifest, texts: list[str], metric: str, value: str, minimum: str
) -> None:
    with pytest.raises(IncompatibleError, match=minimum.replace("+", r"\+")) as caught:
        parse_policy(texts).check(described)
    assert (caught.value.field, caught.value.value) == (f"task.json: metrics.{metric}", value)
    assert "--minimum-metric" in caught.value.fix


def test_a_metric_that_is_no_number_reaches_nothing(described: Manifest) -> None:
    odd = described.model_copy(update={"metrics": {"macro_f1": float("nan")}})
    with pytest.raises(IncompatibleError):
        parse_policy(["macro_f1=0"]).check(odd)


def test_a_tasks_own_minimum_goes_before_that_of_all(described: Manifest) -> None:
    assert parse_policy(["macro_f1=0.99", "defect:macro_f1=0.9"]).check(described)
    with pytest.raises(IncompatibleError):
        parse_policy(["macro_f1=0.9", "defect:macro_f1=0.99"]).check(described)


def demanding(described: Manifest, **requirements: float) -> Manifest:
    return described.model_copy(
        update={"requirements": {name.replace("__", "."): v for name, v in requirements.items()}}
    )


def test_what_a_package_demands_of_itself_is_told_with_the_rest(described: Manifest) -> None:
    own = demanding(described, recall__crack=0.9)
    assert Policy().check(own) == "recall.crack 0.9 of 0.9 as the package demands"
    assert parse_policy(["macro_f1=0.5"]).check(own) == (
        "macro_f1 0.95 of 0.5, recall.crack 0.9 of 0.9 as the package demands"
    )


@pytest.mark.parametrize(
    ("requirements", "metric", "value", "message"),
    [
        ({"recall__crack": 0.98}, "recall.crack", "0.9", "the package itself demands at least 0.98"),
        ({"recall__hole": 0.5}, "recall.hole", "", "missing; the package itself demands at least 0.5"),
    ],
)
def test_a_package_that_misses_its_own_requirements_is_refused(
    described: Manifest, requirements: dict[str, float], metric: str, value: str, message: str
) -> None:
    for policy in (Policy(), parse_policy(["macro_f1=0.5"])):
        with pytest.raises(IncompatibleError, match=message) as caught:
            policy.check(demanding(described, **requirements))
        assert (caught.value.field, caught.value.value) == (f"task.json: metrics.{metric}", value)
        assert "--require-recall" in caught.value.fix


def test_a_server_may_demand_more_than_the_package_does(described: Manifest) -> None:
    with pytest.raises(IncompatibleError, match=r"policy of this server demands at least 0\.95"):
        parse_policy(["recall.crack=0.95"]).check(demanding(described, recall__crack=0.9))
