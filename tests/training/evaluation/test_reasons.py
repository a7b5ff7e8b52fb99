"""The heat map lies where the reason is: on a patch that was planted, and that alone tells the labels apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from factories import fitted, head_package, lora_package, random_backbone, replaced_package
from lensmount_adapters.adapter import Adapter, fit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.heads import HeadSpec
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.manifest import BackboneRef, Manifest, Provenance
from lensmount_adapters.package import Content
from lensmount_training.context import Context
from lensmount_training.data import Pictures
from lensmount_training.evaluation.intervals import Floats
from lensmount_training.evaluation.reasons import SIDE, heat_map, overlay, plain
from lensmount_training.strategies import Lora, Problem
from lensmount_training.strategies.schedule import Schedule

PATCH = 48


@dataclass(frozen=True, eq=False)
class Planted:
    """An adapter that tells pictures with a patch from those without, and pictures that it did not see."""

    backbone: Backbone
    adapter: Adapter
    rows: Tensor
    corners: list[tuple[int, int]]


def planted_pictures(count: int, side: int, seed: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Grey noise, and a chequered patch at a random place."""
    random = np.random.default_rng(seed)
    rows = random.integers(90, 150, (count, 3, side, side)).astype(np.uint8)
    corners = [tuple(random.integers(0, side - PATCH, 2).tolist()) for _ in range(count)]
    chequered = (np.indices((PATCH, PATCH)) // 6).sum(0) % 2 * 255
    for row, (top, left) in zip(rows, corners, strict=True):
        row[:, top : top + PATCH, left : left + PATCH] = chequered
    return torch.from_numpy(rows), [(top, left) for top, left in corners]


@pytest.fixture(scope="module", params=["test_vit", "test_resnet", "test_efficientnet"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    backbone = random_backbone(request.param)
    side = backbone.preprocessing.height
    with_patch, _ = planted_pictures(40, side, 1)
    without = torch.from_numpy(np.random.default_rng(2).integers(90, 150, with_patch.shape).astype(np.uint8))
    part = Pictures.of(torch.cat([without, with_patch]), torch.arange(80) // 40)
    problem = Problem(backbone, ("nothing", "patch"), part, part, seed=0)
    strategy = Lora(rank=4, alpha=8, last_segments=3, views=("identity",), schedule=Schedule(epochs=2, least_steps=25))
    trained = strategy.train(problem, Context(cache=tmp_path_factory.mktemp("cache")))
    names = [segment.name for segment in backbone.segments]
    described = Manifest(
        task="patch",
        labels=list(problem.labels),
        head=HeadSpec(),
        strategy="lora",
        edits=list(trained.edits),
        fork=min(names.index(edit.segment) for edit in trained.edits),
        backbone=BackboneRef(name=backbone.name, fingerprint=backbone.fingerprint),
        preprocessing=backbone.preprocessing,
        provenance=Provenance(data_hash="0" * 64, seed=0, created="now"),
    )
    lora = LoraConfig.model_validate(trained.lora)
    adapter = fit(Content(described, lora, trained.tensors, ""), backbone)
    return Planted(backbone, adapter, *planted_pictures(16, side, 3))


def inside(heat: Floats, corner: tuple[int, int], room: int) -> float:
    """The share of the heat that lies on the patch, and `room` pixels around it: a cell of the map."""
    top, left = (max(0, place - room) for place in corner)
    bottom, right = (place + PATCH + room for place in corner)
    return float(heat[top:bottom, left:right].sum() / max(heat.sum(), 1e-9))


def shares(planted: Planted, heats: list[Floats]) -> Floats:
    """By picture, how many times more heat lies on the patch than if it were spread evenly."""
    even = np.ones(heats[0].shape)
    return np.array([inside(h, c, 16) / inside(even, c, 16) for h, c in zip(heats, planted.corners, strict=True)])


def test_it_finds_the_patch(planted: Planted) -> None:
    heats = [heat_map(planted.adapter, planted.backbone, row, 1) for row in planted.rows]
    assert np.median(shares(planted, heats)) > 2
    assert all(h.min() >= 0 and h.max() == pytest.approx(1) for h in heats)


def test_a_random_map_does_not(planted: Planted) -> None:
    """The negative control."""
    random = np.random.default_rng(0)
    side = planted.rows.shape[-1]
    coarse = [random.random((10, 10)) for _ in planted.rows]
    heats = [cv2.resize(own, (side, side)).astype(np.float64) for own in coarse]
    assert np.median(shares(planted, heats)) < 1.3


def test_the_map_of_another_picture_does_not(planted: Planted) -> None:
    heats = [heat_map(planted.adapter, planted.backbone, row, 1) for row in planted.rows]
    assert np.median(shares(planted, heats[1:] + heats[:1])) < 1.5


@pytest.mark.parametrize(
    "name", ["test_vit", "test_resnet", "test_convnext", "swin_tiny_patch4_window7_224", "densenet121"]
)
@pytest.mark.parametrize("kind", ["lora", "replaced", "attention head"])
def test_every_family_and_kind_has_a_map(name: str, kind: str, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    if kind == "lora":
        lora_package(tmp_path, backbone)
        adapter = fitted(tmp_path / "package", backbone)
    elif kind == "replaced":
        replaced_package(tmp_path / "package", backbone)
        adapter = fitted(tmp_path / "package", backbone)
    else:
        head_package(tmp_path / "package", backbone, head=HeadSpec(kind="attention", heads=2))
        adapter = fitted(tmp_path / "package", backbone)
    size = backbone.preprocessing
    row = torch.randint(0, 256, (3, size.height, size.width), dtype=torch.uint8)
    maps = [heat_map(adapter, backbone, row, label) for label in range(3)]
    assert all(own.shape == (size.height, size.width) for own in maps)
    assert all(np.isfinite(own).all() for own in maps)
    assert sum(own.max() > 0 for own in maps) >= 1
    assert not all(np.array_equal(maps[0], own) for own in maps)


def test_pictures_are_jpeg_and_small() -> None:
    row = torch.randint(0, 256, (3, 1024, 512), dtype=torch.uint8)
    heat = np.linspace(0, 1, 1024 * 512).reshape(1024, 512)
    for data in (plain(row), overlay(row, heat)):
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (SIDE, SIDE // 2, 3)
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    cold = cv2.imdecode(np.frombuffer(overlay(grey, np.zeros((64, 64))), np.uint8), cv2.IMREAD_COLOR)
    assert cold is not None
    assert abs(int(cold[32, 32, 0]) - 128) <= 2  # without heat the picture stays as it is
