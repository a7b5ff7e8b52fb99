"""Small settings: digits to learn from, tiny backbones with random weights that other processes can load too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from factories import random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_training.bench import lora_step, naive, tail
from lensmount_training.bench.material import Source
from lensmount_training.bench.setting import Setting

Settings = Callable[[str], Setting]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Backbone], Path]:
    folder = tmp_path_factory.mktemp("weights")

    def write(backbone: Backbone) -> Path:
        path = folder / f"{backbone.name}.safetensors"
        save_file(backbone.model.state_dict(), path)
        return path

    return write


@pytest.fixture
def setting(tmp_path: Path, digits: Path, weights: Callable[[Backbone], Path]) -> Settings:
    def make(name: str) -> Setting:
        backbone = random_backbone(name)
        return Setting(backbone, weights(backbone), Source.of(digits), 60, tmp_path, 1)

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out, everything is short; pictures are loaded in this process."""
    monkeypatch.setattr(naive, "WORKERS", 0)
    monkeypatch.setattr(lora_step, "MORE", 1)
    monkeypatch.setattr(lora_step, "STEPS", 1)
    monkeypatch.setattr(lora_step, "SCHEDULE", replace(lora_step.SCHEDULE, epochs=1))
    monkeypatch.setattr(tail, "EPOCHS", 1)
    monkeypatch.setattr(tail, "SCHEDULE", replace(tail.SCHEDULE, epochs=1))
