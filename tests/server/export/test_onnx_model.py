"""A task as plain ONNX answers what PEFT's own model answers; one that does not is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from google.protobuf import text_format
from safetensors.torch import save_file
from tritonclient.grpc import model_config_pb2

from factories import head_package, lora_package, pictures, prepared, random_backbone, replaced_package, stacked
from lensmount.errors import IncompatibleError
from lensmount_adapters.admission import Admitted, admit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import HeadSpec
from lensmount_server.export.command import export
from lensmount_server.export.onnx_model import export_onnx
from lensmount_server.export.triton import CONFIG_FILE

SHOTS = pictures(3, seed=8)


def admitted(folder: Path, backbone: Backbone) -> Admitted:
    return admit(folder, backbone, lambda *_: None)


def run(folder: Path, rows: torch.Tensor) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    return dict(zip(["scores", "logits"], session.run(["scores", "logits"], {"pictures": rows.numpy()}), strict=True))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("kind", ["lora", "replaced"])
def test_it_answers_as_peft_s_merged_model(tmp_path: Path, name: str, kind: str) -> None:
    backbone = random_backbone(name)
    if kind == "lora":
        oracle, package = lora_package(tmp_path / "made", backbone, segments=(-2, -3)), tmp_path / "made" / "package"
    else:
        oracle, package = replaced_package(tmp_path / "made", backbone), tmp_path / "made"
    folder, difference = export_onnx(tmp_path / "models", admitted(package, backbone), backbone)
    assert difference < 1e-4
    with torch.inference_mode():
        wanted = oracle(prepared(backbone, SHOTS))
    for count in (1, 3):
        found = run(folder, stacked(backbone, SHOTS)[:count])
        assert np.allclose(found["logits"], wanted[:count], atol=1e-4, rtol=1e-4)
        assert np.allclose(found["scores"], torch.softmax(wanted[:count], -1), atol=1e-5)


@pytest.mark.parametrize(
    "spec", [HeadSpec(kind="mlp", hidden=8), HeadSpec(kind="cosine"), HeadSpec(kind="attention", heads=2)]
)
def test_every_kind_of_head(tmp_path: Path, spec: HeadSpec) -> None:
    backbone = random_backbone()
    head_package(tmp_path / "made", backbone, labels=4, head=spec)
    folder, difference = export_onnx(tmp_path / "models", admitted(tmp_path / "made", backbone), backbone)
    assert difference < 1e-4
    assert (folder / "labels.txt").read_text().splitlines() == [f"scene-{i}" for i in range(4)]


def test_a_model_that_does_not_answer_as_the_trainer_s_is_not_written(tmp_path: Path) -> None:
    backbone = random_backbone()
    lora_package(tmp_path / "made", backbone)
    right = admitted(tmp_path / "made" / "package", backbone)
    right.adapter.head.get_parameter("bias").data += 1
    with pytest.raises(IncompatibleError, match="logits differ"):
        export_onnx(tmp_path / "models", right, backbone)
    assert list((tmp_path / "models").iterdir()) == []


def test_the_command_and_what_triton_reads(tmp_path: Path) -> None:
    backbone = random_backbone()
    lora_package(tmp_path / "made", backbone)
    save_file(backbone.model.state_dict(), tmp_path / "weights.safetensors")
    told = ["onnx", str(tmp_path / "made" / "package"), str(tmp_path / "models")]
    told += ["--weights", str(tmp_path / "weights.safetensors")]
    result = CliRunner().invoke(export, told, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    config = text_format.Parse(
        (tmp_path / "models" / "defect" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert list(config.input[0].dims) == [3, backbone.preprocessing.height, backbone.preprocessing.width]
    assert [output.name for output in config.output] == ["scores", "logits"]
    text_format.Parse(CONFIG_FILE.format(parameters=""), model_config_pb2.ModelConfig())
