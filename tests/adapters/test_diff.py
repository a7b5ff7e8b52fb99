"""What changed between two packages: all of it, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import head_package, lora_package, random_backbone, replaced_package
from lensmount_adapters.diff import Diff, diff
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.package import Package, read_package

QKV = "blocks.5.attn.qkv"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package")
    lora_package(folder, random_backbone("test_vit"))
    return read_package(folder / "package")


def described(package: Package, **changes: object) -> Package:
    """The package with other fields in task.json."""
    return replace(package, manifest=package.manifest.model_copy(update=changes), content_hash="1" * 64)


def nothing_but(found: Diff, *fields: str) -> None:
    """Only these parts of a difference are not empty."""
    parts = {name: getattr(found, name) for name in ("fields", "metrics", "tensors", "low_rank")}
    parts["edits"] = tuple(edit for edit in found.edits if edit.before != edit.after)
    parts["labels"] = (*found.labels.added, *found.labels.removed, *found.labels.moved)
    assert {name for name, part in parts.items() if part} == set(fields)


def test_a_package_does_not_differ_from_itself(package: Package) -> None:
    found = diff(package, package)
    assert found.same
    assert found.same_tensors == len(package.tensors)
    nothing_but(found)


def test_a_difference_is_plain_data(package: Package) -> None:
    assert json.loads(json.dumps(asdict(diff(package, described(package, temperature=2.0)))))


def test_labels_that_change_places_are_told(package: Package) -> None:
    first, second, third = package.manifest.labels
    found = diff(package, described(package, labels=[second, first, third]))
    assert found.labels.moved == (first, second)
    nothing_but(found, "labels")
    new = diff(package, described(package, labels=["new", first, third]))
    assert (new.labels.added, new.labels.removed, new.labels.moved) == (("new",), (second,), (first,))
    nothing_but(diff(package, described(package, labels=[first, second, third, "new"])), "labels")
    assert not diff(package, described(package, labels=[first, second, third, "new"])).labels.moved


def test_thresholds_belong_to_their_labels(package: Package) -> None:
    first, second, third = package.manifest.labels
    before = described(package, labels=[first, second, third], thresholds=[0.1, 0.2, 0.3])
    after = described(package, labels=[third, second, first], thresholds=[0.3, 0.9, 0.1])
    found = diff(before, after)
    assert [(own.name, own.before, own.after) for own in found.fields] == [(f"thresholds.{second}", 0.2, 0.9)]


def test_metrics_with_their_difference(package: Package) -> None:
    before = described(package, metrics={"f1": 0.9, "gone": 1.0, "same": 0.5})
    after = described(package, metrics={"f1": 0.95, "new": 2.0, "same": 0.5})
    found = diff(before, after)
    told = {own.name: (own.before, own.after, own.difference) for own in found.metrics}
    assert told == {"f1": (0.9, 0.95, pytest.approx(0.05)), "gone": (1.0, None, None), "new": (None, 2.0, None)}
    nothing_but(found, "metrics")


def test_fields_by_their_dotted_names(package: Package) -> None:
    own = package.manifest
    other = described(
        package, preprocessing=own.preprocessing.model_copy(update={"crop_pct": 0.5}), strategy="other", temperature=2.0
    )
    told = {field.name: (field.before, field.after) for field in diff(package, other).fields}
    assert told == {
        "preprocessing.crop_pct": (own.preprocessing.crop_pct, 0.5),
        "strategy": ("test", "other"),
        "temperature": (1.0, 2.0),
    }


@settings(max_examples=40, deadline=None)
@given(factor=st.floats(-3, 3).filter(lambda factor: abs(factor - 1) > 1e-3), data=st.data())
def test_a_tensor_that_is_scaled_changes_by_that_much(package: Package, factor: float, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(package.tensors)))
    tensors = {**package.tensors, name: package.tensors[name] * factor}
    found = diff(package, replace(package, tensors=tensors, content_hash="1" * 64))
    (change,) = found.tensors
    assert change.name == name
    assert change.relative == pytest.approx(abs(factor - 1), rel=1e-5)
    assert found.same_tensors == len(package.tensors) - 1
    if "lora_" in name:  # what A and B add is linear in each
        assert found.low_rank[0].relative == pytest.approx(abs(factor - 1), rel=1e-5)


def test_a_and_b_that_stand_for_the_same_add_the_same(package: Package) -> None:
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    tensors = dict(package.tensors)
    tensors[f"{QKV}.lora_A.weight"] = turn @ tensors[f"{QKV}.lora_A.weight"]
    tensors[f"{QKV}.lora_B.weight"] = tensors[f"{QKV}.lora_B.weight"] @ turn.T
    found = diff(package, replace(package, tensors=tensors, content_hash="1" * 64))
    assert [own.name for own in found.tensors] == [f"{QKV}.lora_A.weight", f"{QKV}.lora_B.weight"]
    assert min(own.relative or 0 for own in found.tensors) > 0.1
    assert found.low_rank[0].relative == pytest.approx(0, abs=1e-6)


def test_another_alpha_changes_what_every_edit_adds(package: Package) -> None:
    config = LoraConfig(peft_type="LORA", r=4, lora_alpha=16)
    found = diff(package, replace(package, lora=config, content_hash="1" * 64))
    assert {(own.scale_before, own.scale_after) for own in found.low_rank} == {(2.0, 4.0)}
    assert all(own.relative == pytest.approx(1.0) for own in found.low_rank)
    assert not found.tensors


def test_other_ranks_edits_and_sizes(package: Package, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path / "wide", backbone, rank=6, segments=(-2, -3))
    head_package(tmp_path / "head", backbone)
    replaced_package(tmp_path / "replaced", backbone)
    wide = diff(package, read_package(tmp_path / "wide" / "package"))
    assert {(own.rank_before, own.rank_after) for own in wide.low_rank} == {(4, 6)}
    assert [(own.segment, own.before, own.after) for own in wide.edits if own.before != own.after] == [
        ("blocks.4", "", "lora")
    ]
    assert wide.size_after > wide.size_before
    head = diff(package, read_package(tmp_path / "head"))
    assert [(own.segment, own.before, own.after) for own in head.edits] == [("blocks.5", "lora", "")]
    assert {own.after for own in head.tensors if "lora_" in own.name} == {None}
    replaced = diff(package, read_package(tmp_path / "replaced"))
    assert [(own.before, own.after) for own in replaced.edits] == [("lora", "replace")]


def test_something_from_nothing_is_infinitely_more(package: Package) -> None:
    zero = {**package.tensors, "head.bias": torch.zeros(3)}
    (change,) = diff(replace(package, tensors=zero), replace(package, content_hash="1" * 64)).tensors
    assert change.relative == float("inf")
