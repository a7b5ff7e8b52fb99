"""A small backbone, and a folder without a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_training.context import Context
from lensmount_training.data.dataset import Dataset
from planted import clean, opened


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return random_backbone("test_vit")


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clean(tmp_path_factory.mktemp("clean") / "parts")


@pytest.fixture(scope="session")
def clean_data(clean_folder: Path, backbone: Backbone, context: Context) -> Dataset:
    return opened(clean_folder, backbone, context)
