"""A small ViT with random weights, in a file, as `--weights` takes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from factories import random_backbone
from lensmount_adapters.backbones import Backbone


@pytest.fixture(scope="session")
def vit() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture
def weights(vit: Backbone, tmp_path: Path) -> Path:
    return weights_of(vit, tmp_path / "backbone.safetensors")


def weights_of(backbone: Backbone, path: Path) -> Path:
    save_file(dict(backbone.model.state_dict()), path)
    return path
