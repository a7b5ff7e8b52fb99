"""Whole fine-tuned models: exactly the segments that changed are replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from factories import fitted, merged_model, prepared, random_backbone
from lensmount.errors import IncompatibleError, InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.importing.request import Report, Request
from lensmount_adapters.importing.workflow import import_adapter
from lensmount_adapters.package import read_package
from vits import OLD_NAMES, logits_of, rewrite, save, theirs, twin

LABELS = ("a", "b", "c")


def tuned(backbone: Backbone, segments: Sequence[int]) -> nn.Module:
    """The backbone with a classifier, and every tensor of these segments moved."""
    model = merged_model(backbone, 3, seed=4)
    random = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if any(backbone.segments[i].owns_tensor(name) for i in segments) and tensor.is_floating_point():
            tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=random))
    return model


def imported(source: Path, folder: Path, backbone: Backbone, /, **changes: Any) -> Report:
    weights = folder / "backbone.safetensors"
    save_file(dict(backbone.model.state_dict()), weights)
    values = {
        "source": str(source), "out": folder / "out", "task": "grade", "labels": LABELS, "backbone": backbone.name,
        "weights": weights,
    }  # fmt: skip
    return import_adapter(Request(**{**values, **changes}))


def stored(state: dict[str, Tensor], path: Path, nest: str = "") -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save({nest: state, "epoch": 3} if nest else state, path)
    return path


@pytest.mark.parametrize("segments", [(), (-1,), (-2,), (1, -2), (0, 1, 2)])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_only_the_segments_that_changed_are_replaced(name: str, segments: tuple[int, ...], tmp_path: Path) -> None:
    backbone = random_backbone(name)
    model = tuned(backbone, segments)
    report = imported(stored(dict(model.state_dict()), tmp_path / "tuned.safetensors"), tmp_path, backbone)
    names = [segment.name for segment in backbone.segments]
    assert [edit.segment for edit in report.manifest.edits] == sorted((names[i] for i in segments), key=names.index)
    assert {edit.kind for edit in report.manifest.edits} <= {"replace"}
    golden = read_package(tmp_path / "out").golden
    rows = prepared(backbone, golden.pictures)
    assert torch.equal(logits_of(model, rows), golden.logits) or report.difference < 1e-6
    assert report.difference < 1e-5


def test_a_bias_alone_is_a_change(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    state = dict(tuned(backbone, ()).state_dict())
    state["blocks.3.mlp.fc1.bias"] = state["blocks.3.mlp.fc1.bias"] + 1
    report = imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone)
    assert {edit.segment: edit.kind for edit in report.manifest.edits} == {"blocks.3": "replace"}
    assert report.difference < 1e-5


def test_the_replaced_tensors_are_the_checkpoints_to_the_bit(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    model = tuned(backbone, (-1,))
    imported(stored(dict(model.state_dict()), tmp_path / "tuned.safetensors"), tmp_path, backbone)
    (replaced,) = fitted(tmp_path / "out", backbone).replaced.values()
    assert any(name.endswith("running_var") for name in replaced)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in replaced.items())


@pytest.mark.parametrize("nest", ["", "state_dict", "model", "state_dict_ema"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_files_of_torch_save(nest: str, wrapper: str, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    state = {f"{wrapper}{name}": tensor for name, tensor in tuned(backbone, (-2,)).state_dict().items()}
    report = imported(stored(state, tmp_path / "tuned.pth", nest), tmp_path, backbone)
    assert report.difference < 1e-5
    assert len(report.manifest.edits) == 1


def test_counters_alone_are_no_change(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    state = dict(tuned(backbone, ()).state_dict())
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    assert counters
    state.update({name: state[name] + 5 for name in counters})
    assert imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone).manifest.edits == []


@pytest.mark.parametrize("names", [{}, OLD_NAMES])
def test_a_hugging_face_checkpoint(names: dict[str, str], vit: Backbone, tmp_path: Path) -> None:
    model = twin(vit)
    moved = theirs({name: tensor * 1.3 for name, tensor in vit.model.state_dict().items() if "blocks.4." in name})
    model.load_state_dict(moved, strict=False)
    folder = save(model, tmp_path / "tuned")
    rewrite(folder, names, "model.safetensors")
    report = imported(folder, tmp_path, vit, labels=())
    assert {edit.segment: edit.kind for edit in report.manifest.edits} == {"blocks.4": "replace"}
    assert report.manifest.labels == ["kind-0", "kind-1", "kind-2"]
    assert report.difference < 5e-5
    own = report.manifest.preprocessing
    golden = read_package(tmp_path / "out").golden
    rows = own.normalize(torch.stack([own.prepare(shot) for shot in golden.pictures]))
    assert float((logits_of(model, rows) - golden.logits).abs().max()) < 1e-6 * float(golden.logits.abs().max())


def test_a_pooler_is_left_out(vit: Backbone, tmp_path: Path) -> None:
    folder = save(twin(vit), tmp_path / "tuned")
    add(folder, {"vit.pooler.dense.weight": torch.ones(64, 64)})
    assert imported(folder, tmp_path, vit, labels=()).difference < 5e-5


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vit.decoder.weight", (3,), "timm's ViT has no such tensor"),
        ("vit.encoder.layer.0.attention.attention.query.weight", (63, 64), "q, k and v of one shape"),
        ("vit.encoder.layer.0.attention.attention.query.weight", None, "q, k and v of one shape"),
        ("vit.layernorm.weight", None, "missing in the checkpoint"),
    ],
)
def test_hugging_face_tensors_that_do_not_fit(
    name: str, shape: tuple[int, ...] | None, message: str, vit: Backbone, tmp_path: Path
) -> None:
    folder = save(twin(vit), tmp_path / "tuned")
    add(folder, {name: None if shape is None else torch.ones(shape)})
    with pytest.raises(InvalidInputError, match=message) as caught:
        imported(folder, tmp_path, vit, labels=())
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def add(folder: Path, tensors: dict[str, Tensor | None]) -> None:
    file = folder / "model.safetensors"
    changed = {**load_file(file), **tensors}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file, {"format": "pt"})


def test_a_folder_as_timm_puts_it_on_the_hub(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    folder = tmp_path / "hub"
    folder.mkdir()
    stored(dict(tuned(backbone, (-2,)).state_dict()), folder / "model.safetensors")
    pretrained = {"mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear", "crop_pct": 0.9}
    config = {
        "architecture": "test_vit",
        "num_classes": 3,
        "pretrained_cfg": pretrained,
        "label_names": ["x", "y", "z"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    report = imported(folder, tmp_path, backbone, labels=(), backbone="")
    assert report.manifest.labels == ["x", "y", "z"]
    assert report.manifest.preprocessing.mean == (0.4, 0.4, 0.4)
    assert report.manifest.preprocessing.interpolation == "bilinear"
    assert report.difference < 1e-5


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    state = dict(tuned(backbone, ()).state_dict())
    del state["blocks.3.norm1.weight"]
    with pytest.raises(InvalidInputError, match="missing in the checkpoint") as caught:
        imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone)
    assert caught.value.value == "blocks.3.norm1.weight"
    assert "state_dict" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "shape"), [("blocks.9.norm1.weight", (64,)), ("blocks.3.norm1.weight", (65,)), ("extra", (1,))]
)
def test_a_tensor_that_does_not_fit_is_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    state = {**tuned(backbone, ()).state_dict(), name: torch.ones(shape)}
    with pytest.raises(InvalidInputError) as caught:
        imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone)
    assert caught.value.field == name
    assert caught.value.value == str(shape)
    assert "--backbone" in caught.value.fix


def test_a_change_behind_the_pooling_is_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_convnext")
    state = dict(tuned(backbone, ()).state_dict())
    state["head.norm.weight"] = state["head.norm.weight"] * 2
    with pytest.raises(IncompatibleError, match="in no segment"):
        imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone)


def test_another_architecture_of_transformers_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "swin"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "swin"}))
    save_file({"classifier.weight": torch.ones(3, 4)}, folder / "model.safetensors")
    with pytest.raises(InvalidInputError, match="only ViT is imported") as caught:
        imported(folder, tmp_path, random_backbone("test_vit"))
    assert caught.value.value == "swin"


def test_labels_that_come_twice_are_told_apart(vit: Backbone, tmp_path: Path) -> None:
    folder = save(twin(vit), tmp_path / "tuned")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "crane", "1": "ox", "2": "crane"}}))
    assert imported(folder, tmp_path, vit, labels=()).manifest.labels == ["crane (0)", "ox", "crane (2)"]


def test_a_model_of_many_labels_says_so(vit: Backbone, tmp_path: Path) -> None:
    folder = save(twin(vit, problem_type="multi_label_classification"), tmp_path / "tuned")
    assert imported(folder, tmp_path, vit, labels=()).manifest.kind == "multi_label"


def test_weights_are_read_as_float32(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    state = {name: tensor.bfloat16() for name, tensor in tuned(backbone, ()).state_dict().items()}
    report = imported(stored(state, tmp_path / "t.safetensors"), tmp_path, backbone)
    assert len(report.manifest.edits) == len(backbone.segments)
    assert report.difference < 1e-5
    assert load_file(tmp_path / "out/adapter_model.safetensors")["base_model.model.head.weight"].dtype == torch.float32
