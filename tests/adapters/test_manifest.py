"""`task.json` is refused by the field that is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from factories import manifest, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.manifest import Edit, Manifest, parse_manifest


def right() -> dict[str, Any]:
    edits = [Edit(segment="blocks.5", kind="lora")]
    document: dict[str, Any] = json.loads(manifest(random_backbone(), "defect", 3, edits).model_dump_json())
    return document


RIGHT = right()
NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[str, object, str]] = [
    ("schema_version", 2, "schema_version"),
    ("schema_version", "one", "schema_version"),
    ("task", "", "task"),
    ("task", "../defect", "task"),
    ("task", "a/b", "task"),
    ("task", ".hidden", "task"),
    ("task", "a b", "task"),
    ("task", "defect\n", "task"),
    ("task", "x" * 65, "task"),
    ("task", "défaut", "task"),
    ("task", 5, "task"),
    ("labels", [], "labels"),
    ("labels", ["a", "b", "a"], "labels"),
    ("labels", [str(i) for i in range(1001)], "labels"),
    ("labels", ["a", ""], "labels.1"),
    ("labels", ["a", "b\x1b[31m"], "labels.1"),
    ("labels", ["a", "b\n"], "labels.1"),
    ("labels", ["a", "x" * 101], "labels.1"),
    ("labels", ["a", 7], "labels.1"),
    ("labels", {"a": 1}, "labels"),
    ("kind", "regression", "kind"),
    ("head", {"kind": "forest"}, "head.kind"),
    ("head", {"kind": "mlp", "hidden": 0}, "head.hidden"),
    ("head", {"kind": "mlp", "hidden": 10**9}, "head.hidden"),
    ("head", {"kind": "attention", "heads": 0}, "head.heads"),
    ("head", {"layers": 3}, "head.layers"),
    ("strategy", "", "strategy"),
    ("edits", [{"segment": "blocks.5", "kind": "lora"}] * 2, "edits"),
    ("edits", [{"segment": "blocks.5", "kind": "prune"}], "edits.0.kind"),
    ("edits", [{"segment": "blocks.5"}], "edits.0.kind"),
    ("edits", [{"kind": "lora"}], "edits.0.segment"),
    ("edits", [{"segment": str(i), "kind": "lora"} for i in range(1001)], "edits"),
    ("fork", -1, "fork"),
    ("fork", 1.5, "fork"),
    ("fork", None, "fork"),
    ("backbone", {"name": "test_vit"}, "backbone.fingerprint"),
    ("backbone", {"name": "test_vit", "fingerprint": "abc"}, "backbone.fingerprint"),
    ("backbone", {"name": "test_vit", "fingerprint": "A" * 64}, "backbone.fingerprint"),
    ("temperature", 0, "temperature"),
    ("temperature", -1, "temperature"),
    ("temperature", 1e-300, "temperature"),
    ("temperature", INF, "temperature"),
    ("temperature", NAN, "temperature"),
    ("thresholds", [0.5], "thresholds"),
    ("thresholds", [0.5, 0.5, 1.1], "thresholds.2"),
    ("thresholds", [0.5, NAN, 0.5], "thresholds.1"),
    ("metrics", {"accuracy": NAN}, "metrics.accuracy"),
    ("metrics", [0.9], "metrics"),
    ("requirements", {"recall.crack": INF}, "requirements.recall.crack"),
    ("requirements", {"recall.crack": "high"}, "requirements.recall.crack"),
    ("requirements", ["recall.crack"], "requirements"),
    ("provenance", {"seed": 0, "created": "now"}, "provenance.data_hash"),
    ("unknown", 1, "unknown"),
]


def complaint(document: object) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        parse_manifest(json.dumps(document))
    assert "lensmount train" in caught.value.fix
    assert "{'" not in str(caught.value)
    assert "Value error" not in str(caught.value)
    return caught.value


def test_the_right_one_is_parsed_and_written_back() -> None:
    parsed = parse_manifest(json.dumps(RIGHT))
    assert json.loads(parsed.model_dump_json()) == RIGHT
    assert isinstance(parsed, Manifest)


@pytest.mark.parametrize(("key", "value", "field"), WRONG)
def test_a_wrong_value_is_named(key: str, value: object, field: str) -> None:
    assert complaint({**RIGHT, key: value}).field == f"task.json: {field}"


@pytest.mark.parametrize(
    "key", ["task", "labels", "head", "strategy", "fork", "backbone", "preprocessing", "provenance"]
)
def test_a_missing_value_is_named(key: str) -> None:
    error = complaint({name: value for name, value in RIGHT.items() if name != key})
    assert error.field == f"task.json: {key}"
    assert error.value == ""


@pytest.mark.parametrize("key", sorted(RIGHT["preprocessing"]))
def test_a_missing_value_of_the_preprocessing_is_named(key: str) -> None:
    less = {name: value for name, value in RIGHT["preprocessing"].items() if name != key}
    assert complaint({**RIGHT, "preprocessing": less}).field == f"task.json: preprocessing.{key}"


@pytest.mark.parametrize(("key", "value"), [("std", [0, 1, 1]), ("crop_pct", 0.001), ("height", 16), ("width", 5000)])
def test_a_preprocessing_that_would_break_serving_is_named(key: str, value: object) -> None:
    error = complaint({**RIGHT, "preprocessing": {**RIGHT["preprocessing"], key: value}})
    assert error.field.startswith(f"task.json: preprocessing.{key}")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"3", b'"task"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"[" * 200_000, b'{"a":' * 200_000],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_manifest(text)
    assert caught.value.field == "task.json"
    assert caught.value.fix


def test_a_number_of_five_thousand_digits_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        parse_manifest(json.dumps(RIGHT).replace('"fork": 6', '"fork": ' + "9" * 5000))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        parse_manifest(json.dumps({**RIGHT, "labels": ["a", "b", "\ud800"]}))
