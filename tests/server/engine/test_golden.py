"""The golden check over the whole serving path passes the right adapter and refuses the wrong ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines import serve
from factories import head_package, lora_package, random_backbone, replaced_package
from lensmount.errors import IncompatibleError
from lensmount_adapters.adapter import fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.golden import FILE as GOLDEN_FILE
from lensmount_adapters.golden import compare_logits
from lensmount_adapters.package import CONFIG_FILE, MANIFEST_FILE, TENSOR_FILE, read_package
from lensmount_adapters.pictures import Pixels
from lensmount_server.engine.reference import ReferenceExecutor
from tampering import Tamper, in_json, in_tensors, tensor

BACKBONES = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"]


def check(folder: Path, backbone: Backbone, seen: Callable[[Pixels], Pixels] = lambda pixels: pixels) -> float:
    """What a server does before a version may be served; `seen` is what becomes of a picture on the way."""
    package = read_package(folder)
    adapter = fit(package, backbone)
    prepare = adapter.manifest.preprocessing.prepare
    rows = torch.stack([prepare(seen(pixels)) for pixels in package.golden.pictures])
    answers = serve(ReferenceExecutor(backbone), [(frame, adapter) for frame in range(len(rows))], rows)
    served = torch.stack([answers[frame, adapter.content_hash] for frame in range(len(rows))])
    return compare_logits(package.golden, served, "fp32")


LORA: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}, "biases": {"bias": "all"}}


def package_of(kind: str, folder: Path, backbone: Backbone) -> Path:
    if kind in LORA:
        lora_package(folder, backbone, **LORA[kind])
    elif kind == "replaced":
        replaced_package(folder / "package", backbone)
    else:
        head_package(folder / "package", backbone)
    return folder / "package"


@pytest.mark.parametrize("kind", [*LORA, "replaced", "head"])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_right_adapter_passes_by_far(name: str, kind: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    assert check(package_of(kind, tmp_path, backbone), backbone) < 1e-5


@pytest.mark.parametrize("kind", ["lora", "replaced", "head"])
@pytest.mark.parametrize("name", BACKBONES)
def test_pictures_of_another_colour_order_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    folder = package_of(kind, tmp_path, backbone)
    with pytest.raises(IncompatibleError, match="differ from the trainer's"):
        check(folder, backbone, lambda pixels: np.ascontiguousarray(pixels[:, :, ::-1]))


RESIZES: dict[str, Tamper] = {
    "another interpolation": in_json(MANIFEST_FILE, "preprocessing", "interpolation", value="bilinear"),
    "squashed": in_json(MANIFEST_FILE, "preprocessing", "crop_mode", value="squash"),
    "another crop": in_json(MANIFEST_FILE, "preprocessing", "crop_pct", value=0.8),
    "another mean": in_json(MANIFEST_FILE, "preprocessing", "mean", value=[0.4, 0.5, 0.6]),
    "another deviation": in_json(MANIFEST_FILE, "preprocessing", "std", value=[0.3, 0.3, 0.3]),
}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_another_preprocessing_is_refused(name: str, resize: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    folder = package_of("lora", tmp_path, backbone)
    RESIZES[resize](folder)
    with pytest.raises(IncompatibleError):
        check(folder, backbone)


def test_the_logits_of_another_adapter_are_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    for seed in (1, 2):
        lora_package(tmp_path / str(seed), backbone, seed=seed)
    folder = tmp_path / "1" / "package"
    shutil.copy(tmp_path / "2" / "package" / GOLDEN_FILE, folder / GOLDEN_FILE)
    with pytest.raises(IncompatibleError):
        check(folder, backbone)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        *(("head.", "lora"), ("lora_A", "lora"), ("lora_B", "lora")),
        *(("lora_A", "dora"), ("lora_magnitude_vector", "dora")),
        *(("base_layer.bias", "biases"), ("norm1.bias", "biases")),
    ],
)
def test_a_stale_part_is_refused(part: str, kind: str, tmp_path: Path) -> None:
    """The tensors of one part come from another training than the rest."""
    backbone = random_backbone("test_vit")
    for seed in (1, 2):
        lora_package(tmp_path / str(seed), backbone, seed=seed, **LORA[kind])
    folder = tmp_path / "1" / "package"
    stale = read_package(tmp_path / "2" / "package").tensors
    names = [name for name in stale if part in name]
    for name in names:
        tensor(name, lambda _, other=stale[name]: other)(folder)  # type: ignore[misc] # bound now
    assert names
    with pytest.raises(IncompatibleError):
        check(folder, backbone)


@pytest.mark.parametrize("key", ["lora_alpha", "use_rslora"])
def test_another_scale_is_refused(key: str, tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    folder = package_of("lora", tmp_path, backbone)
    in_json(CONFIG_FILE, key, value=9 if key == "lora_alpha" else True)(folder)
    with pytest.raises(IncompatibleError):
        check(folder, backbone)


def test_pictures_that_trade_places_are_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    folder = package_of("lora", tmp_path, backbone)
    in_tensors(lambda own: own.update(logits=own["logits"].flip(0)), GOLDEN_FILE)(folder)
    with pytest.raises(IncompatibleError):
        check(folder, backbone)


def test_numbers_that_overflow_are_refused(tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    folder = package_of("lora", tmp_path, backbone)
    in_tensors(lambda own: [t.mul_(1e18) for name, t in own.items() if "lora_" in name], TENSOR_FILE)(folder)
    with pytest.raises(IncompatibleError):
        check(folder, backbone)
