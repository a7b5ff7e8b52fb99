"""The usual backbone where it can be had, the one that came with pip elsewhere."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from lensmount_adapters.backbones import default
from lensmount_adapters.backbones.default import BUNDLED, USUAL, default_backbone


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weights = tmp_path / "weights.safetensors"
    monkeypatch.setattr(default, "cached_weights", lambda _: weights)
    return weights


def test_weights_on_this_machine(no_weights: Path) -> None:
    no_weights.touch()
    assert default_backbone().name == USUAL


def test_offline_it_is_the_one_that_came_with_pip() -> None:
    chosen = default_backbone()
    assert chosen.name == BUNDLED
    assert USUAL in chosen.reason


def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert default_backbone().name == USUAL
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert default_backbone().name == BUNDLED
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert default_backbone().name == BUNDLED  # nobody listens there any more
