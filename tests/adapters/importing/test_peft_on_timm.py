"""LoRA that PEFT trained on a timm model: the package answers as PEFT does, and PEFT loads the package again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from factories import lora_package, merged_model, prepared, random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.peft_config import target_modules
from lensmount_adapters.importing.request import Report, Request
from lensmount_adapters.importing.workflow import import_adapter
from lensmount_adapters.package import read_package
from vits import logits_of, still

pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"fc1": 7, "conv1": 3}, "alpha_pattern": {"fc1": 3, "conv1": 5.5}},
    "rslora and patterns": {"use_rslora": True, "alpha_pattern": {"attn.qkv|fc2": 1, "conv2": 9}},
    "dora": {"use_dora": True, "rank_pattern": {"fc1": 7, "conv1": 3}},
    "trained biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
}
LABELS = ("a", "b", "c", "d", "e")


def saved_weights(backbone: Backbone, folder: Path) -> Path:
    path = folder / "backbone.safetensors"
    save_file(dict(backbone.model.state_dict()), path)
    return path


def imported(folder: Path, backbone: Backbone, /, **changes: Any) -> Report:
    values = {
        "source": str(folder / "peft"), "out": folder / "out", "task": "defect", "labels": LABELS,
        "backbone": backbone.name, "weights": saved_weights(backbone, folder),
    }  # fmt: skip
    return import_adapter(Request(**{**values, **changes}))


def pefts(backbone: Backbone, folder: Path, rows: Tensor) -> Tensor:
    with still():
        model: nn.Module = PeftModel.from_pretrained(merged_model(backbone, len(LABELS), seed=77), str(folder)).eval()
    return logits_of(model, rows)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_peft_to_package_to_peft(name: str, options: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    oracle = lora_package(tmp_path, backbone, labels=5, segments=(-2, -3), **OPTIONS[options])
    report = imported(tmp_path, backbone)
    golden = read_package(tmp_path / "out").golden
    rows = prepared(backbone, golden.pictures)
    scale = float(golden.logits.abs().max())
    assert report.difference < 1e-5
    assert float((logits_of(oracle, rows) - golden.logits).abs().max()) < 1e-5 * scale
    assert float((pefts(backbone, tmp_path / "out", rows) - golden.logits).abs().max()) < 1e-5 * scale
    assert float((logits_of(merged_model(backbone, 5, seed=77), rows) - golden.logits).abs().max()) > 1e-2 * scale


def test_lora_bs_own_bias(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5, segments=(-2, -3), lora_bias=True, alpha_pattern={"fc1": 3})
    assert imported(tmp_path, backbone).difference < 1e-5


def test_the_tensors_are_pefts_own_to_the_bit(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    imported(tmp_path, backbone)
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    ours = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_a_module_whose_name_ends_other_names_is_edited_alone(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    name = "conv1.0" if "conv1.0" in dict(backbone.model.named_modules()) else "conv1"
    tune(tmp_path / "peft", merged_model(backbone, 5, seed=0), target_modules=f"^{name}$", modules_to_save=["fc"])
    report = imported(tmp_path, backbone)
    assert {edit.segment for edit in report.manifest.edits} == {"stem"}
    golden = read_package(tmp_path / "out").golden
    found = pefts(backbone, tmp_path / "out", prepared(backbone, golden.pictures))
    assert float((found - golden.logits).abs().max()) < 1e-5 * float(golden.logits.abs().max())


def test_a_name_that_ends_another_is_written_as_an_expression() -> None:
    model = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1x0.conv2"]
    assert target_modules(["layer1.0.conv2"], model) == ["layer1.0.conv2"]
    found = target_modules(["conv1", "layer1.0.conv2"], model)
    assert isinstance(found, str)
    assert [name for name in model if re.fullmatch(found, name)] == ["conv1", "layer1.0.conv2"]


def test_a_saved_norm_becomes_a_replaced_segment(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    tune(
        tmp_path / "peft",
        merged_model(backbone, 5, seed=0),
        target_modules=["blocks.5.mlp.fc1"],
        modules_to_save=["head", "norm"],
    )
    report = imported(tmp_path, backbone)
    assert {edit.segment: edit.kind for edit in report.manifest.edits} == {"blocks.5": "lora", "norm": "replace"}
    assert report.difference < 1e-5
    golden = read_package(tmp_path / "out").golden
    found = pefts(backbone, tmp_path / "out", prepared(backbone, golden.pictures))
    assert float((found - golden.logits).abs().max()) < 1e-5 * float(golden.logits.abs().max())


def test_a_saved_module_in_an_edited_segment_merges_its_edits(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    tune(
        tmp_path / "peft",
        merged_model(backbone, 5, seed=0),
        target_modules=["blocks.4.mlp.fc1"],
        modules_to_save=["head", "blocks.4.norm1"],
        lora_bias=True,
    )
    report = imported(tmp_path, backbone)
    assert {edit.segment: edit.kind for edit in report.manifest.edits} == {"blocks.4": "replace"}
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert report.difference < 1e-5


def test_a_saved_bias_beside_trained_ones_is_not_lost(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    names = {"target_modules": ["blocks.4.mlp.fc1"], "modules_to_save": ["head", "blocks.4.norm1"]}
    tune(tmp_path / "peft", merged_model(backbone, 5, seed=0), bias="lora_only", **names)
    own = backbone.model.get_parameter("blocks.4.norm1.weight")
    file = tmp_path / "peft" / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.blocks.4.norm1.weight": own.detach().clone()}, file)
    report = imported(tmp_path, backbone)
    assert {edit.segment: edit.kind for edit in report.manifest.edits} == {"blocks.4": "replace"}
    assert report.difference < 1e-5


def test_a_change_behind_the_pooling_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_convnext")
    lora_package(tmp_path, backbone, labels=5)
    file = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(file)
    weight = backbone.model.state_dict()["head.norm.weight"]
    save_file({**tensors, "base_model.model.head.norm.weight": weight.clone()}, file)
    assert imported(tmp_path, backbone).difference < 1e-5
    save_file({**tensors, "base_model.model.head.norm.weight": weight * 2}, file)
    with pytest.raises(IncompatibleError, match="in no segment") as caught:
        imported(tmp_path, backbone, out=tmp_path / "again")
    assert caught.value.value == "head.norm.weight"
    assert caught.value.fix


def test_without_a_classifier_it_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    tune(tmp_path / "peft", merged_model(backbone, 5, seed=0), target_modules=["fc1"])
    with pytest.raises(InvalidInputError, match="the classifier is missing") as caught:
        imported(tmp_path, backbone)
    assert caught.value.field == "head.weight"
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    with pytest.raises(InvalidInputError):
        imported(tmp_path, random_backbone("test_resnet"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_labels_must_be_known_and_as_many_as_outputs(labels: tuple[str, ...], tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    with pytest.raises(InvalidInputError) as caught:
        imported(tmp_path, backbone, labels=labels)
    assert caught.value.field == "labels"
    assert "5" in caught.value.fix


def test_the_backbone_must_be_known(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    with pytest.raises(InvalidInputError, match="which backbone") as caught:
        imported(tmp_path, backbone, backbone="")
    assert "--backbone" in caught.value.fix


def test_the_backbone_that_peft_names_is_taken(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    config = tmp_path / "peft" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "timm/test_vit"}))
    assert imported(tmp_path, backbone, backbone="").manifest.backbone.name == "test_vit"


def test_a_package_is_no_source(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    with pytest.raises(InvalidInputError, match="a package already") as caught:
        imported(tmp_path, backbone, source=str(tmp_path / "package"))
    assert "lensmount register" in caught.value.fix


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    lora_package(tmp_path, backbone, labels=5)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInputError, match="the folder exists"):
        imported(tmp_path, backbone)


def tune(folder: Path, model: nn.Module, **options: Any) -> None:
    """PEFT's adapter of a timm model, all that it trains random."""
    with still():
        peft: Any = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **options))
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + torch.randn_like(parameter) * 0.1
        peft.save_pretrained(folder)
