"""PEFT itself loads the LoRA part of a package and gets the logits that the package promises."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from factories import fitted, lora_package, lora_targets, merged_model, prepared, random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.package import read_package

# The patterns below name modules of several families; PEFT warns of those that this model lacks.
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"fc1": 7, "conv_pw": 2, "conv1": 3}, "alpha_pattern": {"fc1": 3, "conv1": 5.5}},
    "rslora and patterns": {"use_rslora": True, "alpha_pattern": {"attn.qkv|fc2": 1, r"blocks\.5\.mlp\.fc1": 9}},
}
BEYOND: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "dora, rslora and patterns": {"use_dora": True, "use_rslora": True, "rank_pattern": {"fc1": 7, "conv1": 3}},
    "trained biases": {"bias": "lora_only"},
    "dora and trained biases": {"use_dora": True, "bias": "lora_only"},
    "all biases": {"bias": "all"},
    "dora and all biases": {"use_dora": True, "bias": "all"},
}
OWN_BIAS: dict[str, dict[str, Any]] = {
    "lora_B's bias": {"lora_bias": True, "use_rslora": True},
    "lora_B's bias and trained ones": {"lora_bias": True, "bias": "lora_only", "alpha_pattern": {"fc1": 3}},
}


def pefts_logits(backbone: Backbone, folder: Path, rows: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Logits of a model with a fresh classifier, without and with what PEFT loads from the folder."""
    base = merged_model(backbone, labels, seed=123)
    with torch.inference_mode():
        fresh = base(rows)
        loaded: nn.Module = PeftModel.from_pretrained(base, str(folder)).eval()
        return fresh, loaded(rows)


def agrees_with_peft(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    backbone = random_backbone(name)
    lora_package(tmp_path, backbone, labels=5, segments=(-2, -3), **options)
    folder = tmp_path / "package"
    golden = read_package(folder).golden
    fresh, loaded = pefts_logits(backbone, folder, prepared(backbone, golden.pictures), labels=5)
    scale = float(golden.logits.abs().max())
    assert float((loaded - golden.logits).abs().max()) < 1e-4 * scale
    assert float((fresh - golden.logits).abs().max()) > 1e-2 * scale


@pytest.mark.parametrize("options", [*OPTIONS, *BEYOND])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", "lcnet_050"])
def test_peft_loads_a_package_and_gives_the_golden_logits(name: str, options: str, tmp_path: Path) -> None:
    agrees_with_peft(name, {**OPTIONS, **BEYOND}[options], tmp_path)


@pytest.mark.parametrize("options", OWN_BIAS)
@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_it_does_so_where_lora_b_has_a_bias(name: str, options: str, tmp_path: Path) -> None:
    agrees_with_peft(name, OWN_BIAS[options], tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *product(["test_vit", "test_resnet"], OPTIONS),
        *product(["test_vit", "test_convnext"], ["trained biases", *OWN_BIAS]),
    ],
)
@torch.inference_mode()
def test_a_delta_is_what_pefts_layer_adds(name: str, options: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    lora_package(tmp_path, backbone, segments=(-2,), **{**OPTIONS, **BEYOND, **OWN_BIAS}[options])
    peft = PeftModel.from_pretrained(merged_model(backbone, 3, seed=0), str(tmp_path / "package")).eval()
    adapter = fitted(tmp_path / "package", backbone)
    (deltas,) = adapter.lora.values()
    assert sorted(deltas) == sorted(lora_targets(backbone, (-2,)))
    for module_name, delta in deltas.items():
        layer: Any = peft.base_model.model.get_submodule(module_name)
        base: Any = backbone.model.get_submodule(module_name)
        inputs = base.in_channels if isinstance(base, nn.Conv2d) else base.in_features
        x = torch.randn((2, inputs, 9, 9) if isinstance(base, nn.Conv2d) else (2, 9, inputs))
        theirs = layer(x) - base(x)
        assert torch.allclose(delta.of(base, x), theirs, atol=1e-4 * float(theirs.abs().max())), module_name
