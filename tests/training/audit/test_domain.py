"""Photographs are near, noise is far, and a backbone that knows neither says so."""

from __future__ import annotations

import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import random_backbone, stacked
from lensmount_adapters.backbones import Backbone, load_backbone
from lensmount_adapters.pictures import Pixels
from lensmount_training.audit.domain import FAR, MEDIUM, domain_distance, word_of
from lensmount_training.audit.photographs import crops, noise, photographs
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset, Pictures
from lensmount_training.data.folder import list_folder
from lensmount_training.data.reading import read
from planted import surface

OURS = Path(os.environ.get("LENSMOUNT_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (OURS / "deeppcb_patches").is_dir(), reason="no test data; set LENSMOUNT_TEST_DATA")


def as_pictures(backbone: Backbone, shots: list[Pixels]) -> Pictures:
    return Pictures.of(stacked(backbone, shots), torch.zeros(len(shots), dtype=torch.int64))


def some(folder: Path, out: Path, each: int) -> Path:
    for label in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        (out / label).mkdir(parents=True)
        for file in sorted((folder / label).iterdir())[:each]:
            shutil.copy(file, out / label)
    return out


def test_words() -> None:
    assert [word_of(value) for value in (0, MEDIUM - 0.01, MEDIUM, FAR - 0.01, FAR, 1)] == [
        "near", "near", "medium", "medium", "far", "far",
    ]  # fmt: skip


def test_photographs_come_with_pip_and_are_the_same_again() -> None:
    own = photographs()
    assert len(own) == 7
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 and min(picture.shape[:2]) >= 300 for picture in own)
    one, other = (list(crops(own[0], 3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_backbone_with_random_weights_knows_no_domain(clean_data: Dataset, backbone: Backbone) -> None:
    found = domain_distance(backbone, clean_data, Context())
    assert 0 <= found.value <= 1
    if found.value == 0.5:
        assert "can not be measured" in found.explanation


def test_a_backbone_without_normalisation_says_so(clean_data: Dataset) -> None:
    bare = random_backbone("test_vit")
    for module in list(bare.model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, torch.nn.Identity())
    found = domain_distance(bare, as_pictures(bare, [surface("brick", 0)] * 4), Context())
    assert (found.value, found.word) == (0.5, "medium")
    assert "no normalisation layer" in found.explanation


@pytest.mark.slow
def test_photographs_surfaces_and_noise_on_the_backbone_that_pip_brings() -> None:
    backbone = load_backbone("tf_efficientnet_lite0")
    unseen = [shot for seed, picture in enumerate(photographs()) for shot in islice(crops(picture, 100 + seed), 2)]
    near = domain_distance(backbone, as_pictures(backbone, unseen), Context())
    grass = domain_distance(backbone, as_pictures(backbone, [surface("grass", n) for n in range(12)]), Context())
    far = domain_distance(backbone, as_pictures(backbone, list(noise(8, 1))), Context())
    assert near.word == "near"
    assert near.value < grass.value < far.value
    assert far.word == "far"
    assert far.value > 0.9


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_waste_is_near_and_circuit_boards_are_far(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(name, OURS / f"{name}.safetensors" if name.startswith("vit") else None)
    context = Context(cache=tmp_path / "cache")
    found = {}
    for data in ("trashnet_mini", "deeppcb_patches"):
        folder = some(OURS / data, tmp_path / data, 6)
        dataset = read(list_folder(folder), backbone.preprocessing, context.cache, context.progress)
        found[data] = domain_distance(backbone, dataset, context)
    assert found["trashnet_mini"].word == "near"
    assert found["deeppcb_patches"].word == "far"
    assert found["deeppcb_patches"].value > found["trashnet_mini"].value + 0.2
