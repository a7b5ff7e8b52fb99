"""What becomes of PEFT's tensors: edits that stay low-rank, and edits that are merged when an adapter is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factories import fitted, lora_package, lora_targets, random_backbone, with_biases
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.manifest import Edit
from lensmount_adapters.package import Package, read_package


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("test_vit")


def made(folder: Path, backbone: Backbone, **options: Any) -> Adapter:
    lora_package(folder, backbone, **options)
    return fitted(folder / "package", backbone)


@pytest.mark.parametrize(
    "options", [{"bias": "lora_only"}, {"lora_bias": True}, {"bias": "lora_only", "lora_bias": True}]
)
def test_a_bias_leaves_an_edit_low_rank(options: dict[str, Any], backbone: Backbone, tmp_path: Path) -> None:
    adapter = made(tmp_path, backbone, **options)
    assert not adapter.replaced
    ((index, deltas),) = adapter.lora.items()
    assert index == adapter.fork == len(backbone.segments) - 2
    assert sorted(deltas) == sorted(lora_targets(backbone, (-2,)))
    for name, delta in deltas.items():
        assert delta.bias is not None
        assert delta.bias.shape == backbone.model.get_parameter(f"{name}.bias").shape


def test_a_bias_is_weighed_and_moved(backbone: Backbone, tmp_path: Path) -> None:
    plain, biased = made(tmp_path / "0", backbone), made(tmp_path / "1", backbone, bias="lora_only")
    (deltas,) = biased.lora.values()
    assert biased.size_bytes - plain.size_bytes == sum(4 * len(delta.b) for delta in deltas.values())
    (moved,) = biased.to(torch.device("meta")).lora.values()
    assert {tensor.device.type for delta in moved.values() for tensor in delta.tensors} == {"meta"}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_dora_is_merged_into_the_weights_that_it_edits_and_no_others(name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    adapter = made(tmp_path, backbone, use_dora=True)
    assert not adapter.lora
    ((index, tensors),) = adapter.replaced.items()
    assert index == adapter.fork == len(backbone.segments) - 2
    assert tensors.keys() == {f"{name}.weight" for name in lora_targets(backbone, (-2,))}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_the_rows_of_a_dora_weight_have_the_lengths_of_the_package(name: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    adapter = made(tmp_path, backbone, use_dora=True)
    package = read_package(tmp_path / "package")
    for key, weight in adapter.replaced[adapter.fork].items():
        wanted = package.tensors[f"{key.removesuffix('.weight')}.lora_magnitude_vector"].flatten()
        before = backbone.model.get_parameter(key)
        assert torch.allclose(weight.flatten(1).norm(dim=1), wanted.abs(), rtol=1e-5)
        assert not torch.allclose(before.flatten(1).norm(dim=1), wanted.abs(), rtol=1e-1)


def test_both_names_of_doras_lengths_are_read(backbone: Backbone, tmp_path: Path) -> None:
    adapter = made(tmp_path, backbone, use_dora=True)
    package = read_package(tmp_path / "package")
    long = {f"{n}.weight" if n.endswith("magnitude_vector") else n: t for n, t in package.tensors.items()}
    assert long.keys() != package.tensors.keys()
    other = fit(replace(package, tensors=long), backbone)
    assert all(torch.equal(t, adapter.replaced[adapter.fork][n]) for n, t in other.replaced[adapter.fork].items())


def test_all_biases_are_edits_of_their_segments(backbone: Backbone, tmp_path: Path) -> None:
    adapter = made(tmp_path, backbone, bias="all")
    assert set(adapter.replaced) == with_biases(backbone) == set(range(len(backbone.segments)))
    assert (adapter.fork, dict(adapter.lora)) == (0, {})
    assert adapter.replaced[0].keys() == {"patch_embed.proj.bias"}
    assert "blocks.5.mlp.fc1.weight" in adapter.replaced[6]
    assert "blocks.4.mlp.fc1.weight" not in adapter.replaced[5]


def last_block_only(package: Package, backbone: Backbone) -> Package:
    """The package as it would be, had the biases before its LoRA never been trained."""
    own = backbone.model.state_dict()
    last = backbone.segments[-2]
    kept = {name: t if last.owns_tensor(name) else own.get(name, t) for name, t in package.tensors.items()}
    edits = [Edit(segment=last.name, kind="lora")]
    manifest = package.manifest.model_copy(update={"edits": edits, "fork": len(backbone.segments) - 2})
    return replace(package, tensors=kept, manifest=manifest)


def test_biases_that_were_not_trained_leave_their_segments_shared(backbone: Backbone, tmp_path: Path) -> None:
    full = made(tmp_path, backbone, bias="all")
    adapter = fit(last_block_only(read_package(tmp_path / "package"), backbone), backbone)
    assert list(adapter.replaced) == [adapter.fork] == [len(backbone.segments) - 2]
    assert all(torch.equal(t, full.replaced[adapter.fork][n]) for n, t in adapter.replaced[adapter.fork].items())


def test_a_segment_whose_only_biases_are_of_edited_modules_stays_low_rank(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    adapter = made(tmp_path, backbone, segments=(0,), bias="all")
    assert list(adapter.lora) == [0]
    assert 0 not in adapter.replaced
