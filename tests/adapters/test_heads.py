"""Heads of every kind on every family."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from factories import SMALL, fitted, head_package, merged_model, pictures, prepared, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.heads import HeadSpec, build_head, run_head
from lensmount_adapters.package import read_package

FAMILIES = ["test_vit", "test_vit3", "test_resnet", "test_efficientnet", "lcnet_050", "test_convnext", *SMALL]
Kind = Literal["linear", "mlp", "attention", "cosine"]
KINDS: tuple[Kind, ...] = ("linear", "mlp", "attention", "cosine")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*FAMILIES, "test_maxvit", "test_mambaout"])
@torch.inference_mode()
def test_a_head_comes_back_from_its_package_and_gives_the_golden_logits(name: str, kind: Kind, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    made = head_package(tmp_path / "a", backbone, labels=5, head=HeadSpec(kind=kind, hidden=17, heads=2))
    golden = read_package(tmp_path / "a").golden
    read = fitted(tmp_path / "a", backbone).head
    features = backbone.forward_features(prepared(backbone, golden.pictures))
    logits = run_head(read, backbone, features, backbone.pool(features))
    assert logits.shape == (2, 5)
    assert torch.equal(logits, golden.logits)
    assert not torch.equal(logits[0], logits[1])
    assert type(read) is type(made)
    assert not read.training


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_linear_head_is_timms_own_classifier(name: str) -> None:
    backbone = random_backbone(name)
    full = merged_model(backbone, 7, seed=3)
    head = build_head(HeadSpec(), backbone, 7)
    head.load_state_dict(full.get_submodule(backbone.classifier).state_dict())
    x = prepared(backbone, pictures(2))
    features = backbone.forward_features(x)
    assert torch.equal(run_head(head, backbone, features, backbone.pool(features)), full(x))


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_tokens_are_the_places_of_the_map_in_reading_order(name: str) -> None:
    backbone = random_backbone(name)
    features = backbone.forward_features(prepared(backbone, pictures(2)))
    tokens = backbone.tokens(features)
    if features.ndim == 3:
        assert torch.equal(tokens, features)
        return
    channels_last = features if features.shape[-1] == backbone.channels else features.permute(0, 2, 3, 1)
    width = channels_last.shape[2]
    assert torch.equal(tokens[1, width + 2], channels_last[1, 1, 2])
    assert tokens.shape == (2, channels_last.shape[1] * width, backbone.channels)


@torch.inference_mode()
def test_attention_does_not_depend_on_the_order_of_tokens_but_on_each_of_them() -> None:
    backbone = random_backbone("test_resnet")
    torch.manual_seed(0)
    head = build_head(HeadSpec(kind="attention"), backbone, 3).eval()
    tokens = torch.randn(2, 25, backbone.channels)
    logits = head(tokens)
    assert torch.allclose(head(tokens[:, torch.randperm(25)]), logits, atol=1e-5)
    changed = tokens.clone()
    changed[0, 7] += 5
    assert not torch.allclose(head(changed)[0], logits[0], atol=1e-5)
    assert torch.allclose(head(changed)[1], logits[1], atol=1e-5)


@torch.inference_mode()
def test_a_cosine_depends_on_the_direction_alone() -> None:
    backbone = random_backbone("test_resnet")
    head = build_head(HeadSpec(kind="cosine"), backbone, 3)
    pooled = torch.randn(4, backbone.features)
    logits = head(pooled)
    assert torch.allclose(head(pooled * 7), logits, atol=1e-5)
    assert float(logits.abs().max()) <= 10.0
    assert float(head(torch.zeros(1, backbone.features)).abs().max()) == 0.0


def test_attention_heads_must_divide_the_channels() -> None:
    backbone = random_backbone("test_vit")
    with pytest.raises(InvalidInputError) as caught:
        build_head(HeadSpec(kind="attention", heads=5), backbone, 3)
    assert caught.value.field == "head.heads"
    assert caught.value.value == "5"
    assert "divisor of 64" in caught.value.fix
