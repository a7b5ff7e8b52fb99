"""Replacing a segment's tensors changes that run and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factories import SMALL, enliven, pictures, prepared, random_backbone
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model, fingerprint

NAMES = ["test_vit", "test_resnet", "test_efficientnet", "lcnet_050", "test_convnext", *SMALL]


def other_weights(backbone: Backbone) -> dict[str, Tensor]:
    torch.manual_seed(99)
    other = create_model(backbone.name, **SMALL.get(backbone.name, {}))
    enliven(other)
    return dict(other.state_dict())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_every_segment_can_be_replaced_and_leaves_the_model_as_it_was(name: str) -> None:
    backbone = random_backbone(name)
    other = other_weights(backbone)
    identities = {name: id(tensor) for name, tensor in backbone.model.named_parameters()}
    x = prepared(backbone, pictures(1))
    for segment in backbone.segments:
        own = {name: tensor for name, tensor in other.items() if segment.owns_tensor(name)}
        plain = segment(x)
        replaced = segment.run_replaced(own, x)
        assert torch.equal(replaced, plain) == (not own), segment.name
        assert torch.equal(segment(x), plain), segment.name
        x = plain
    assert fingerprint(backbone.model) == backbone.fingerprint
    assert {name: id(tensor) for name, tensor in backbone.model.named_parameters()} == identities


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_replaced_segment_equals_a_model_with_those_weights(name: str) -> None:
    backbone = random_backbone(name)
    other = other_weights(backbone)
    twin = random_backbone(name)
    segment = backbone.segments[-2]
    own = {name: tensor for name, tensor in other.items() if segment.owns_tensor(name)}
    twin.model.load_state_dict({**twin.model.state_dict(), **own})
    x = prepared(backbone, pictures(1))
    for before in backbone.segments[:-2]:
        x = before(x)
    assert torch.equal(segment.run_replaced(own, x), twin.segments[-2](x))


@torch.inference_mode()
def test_a_replaced_segment_that_fails_still_leaves_the_model_as_it_was() -> None:
    backbone = random_backbone("test_vit")
    segment = backbone.segments[1]
    own = {name: tensor for name, tensor in other_weights(backbone).items() if segment.owns_tensor(name)}
    with pytest.raises(RuntimeError):
        segment.run_replaced(own, torch.zeros(1, 3, 7))
    assert fingerprint(backbone.model) == backbone.fingerprint


def test_editable_modules_are_the_linear_and_plain_convolution_modules_of_the_segment() -> None:
    backbone = random_backbone("test_vit")
    assert sorted(backbone.segments[1].editable_modules()) == [
        "blocks.0.attn.proj",
        "blocks.0.attn.qkv",
        "blocks.0.mlp.fc1",
        "blocks.0.mlp.fc2",
    ]
    assert list(backbone.segments[0].editable_modules()) == ["patch_embed.proj"]
    assert backbone.segments[-1].editable_modules() == {}


def test_a_name_that_only_begins_alike_is_not_owned() -> None:
    backbone = random_backbone("test_resnet")
    layer = backbone.segments[1]
    assert layer.owns_tensor(f"{layer.name}.conv1.weight")
    assert not layer.owns_tensor(f"{layer.name}0.conv1.weight")
    assert backbone.segment_of("fc.weight") is None
