"""A data directory is served with the backbone that it was served with before."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensmount_adapters.backbones.default import AUTO, BUNDLED, USUAL, DefaultBackbone
from lensmount_server import remembered
from lensmount_server.remembered import choose_backbone, remember_backbone


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "default_backbone", lambda: DefaultBackbone(USUAL, "can be fetched"))


def test_a_name_that_is_given_is_taken(tmp_path: Path) -> None:
    remember_backbone("resnet50", tmp_path)
    assert choose_backbone("vit_tiny_patch16_224", tmp_path) == "vit_tiny_patch16_224"


def test_a_new_directory_gets_the_default(tmp_path: Path) -> None:
    assert choose_backbone(AUTO, tmp_path) == USUAL
    assert choose_backbone(AUTO, tmp_path / "new") == USUAL


def test_what_was_served_is_served_again(tmp_path: Path) -> None:
    remember_backbone("resnet50", tmp_path)
    assert choose_backbone(AUTO, tmp_path) == "resnet50"
    assert [path.name for path in tmp_path.iterdir()] == ["backbone"]


def test_a_directory_of_a_release_that_did_not_remember(tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").touch()
    assert choose_backbone(AUTO, tmp_path) == BUNDLED
