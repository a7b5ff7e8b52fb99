"""Segments composed are timm's own forward pass, and own its tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from factories import SMALL, enliven, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import create_model, wrap

FAMILIES = {
    "VisionTransformer": [
        "vit_tiny_patch16_224",
        "vit_wee_patch16_reg1_gap_256",
        "vit_little_patch16_reg4_gap_256",
        "test_vit",
        "test_vit2",
        "test_vit3",
        "test_vit4",
    ],
    "ResNet": ["resnet18", "resnet50", "resnet26d", "test_resnet"],
    "EfficientNet": [
        "efficientnet_b0",
        "tf_efficientnet_lite0",
        "tinynet_e",
        "test_efficientnet",
        "test_efficientnet_gn",
        "test_efficientnet_ln",
        "test_efficientnet_evos",
    ],
    "MobileNetV3": ["mobilenetv3_small_100", "mobilenetv3_large_100", "lcnet_050", "mobilenetv4_conv_small"],
    "ConvNeXt": ["convnext_atto", "convnextv2_atto", "test_convnext", "test_convnext2", "test_convnext3"],
    "SwinTransformer": ["swin_tiny_patch4_window7_224"],
    "DenseNet": ["densenet121", "densenetblur121d"],
}
MODELS = [(family, name) for family, names in FAMILIES.items() for name in names]
UNKNOWN = ["test_maxvit", "test_coatnet", "test_vit_relpos", "test_byobnet", "test_nfnet", "test_mambaout"]


def full_depth(name: str) -> Backbone:
    """timm's own architecture, not a smaller one; the larger ViTs for smaller pictures."""
    torch.manual_seed(0)
    model = create_model(name, **({"img_size": 64} if name.endswith("_gap_256") else {}))
    enliven(model)
    return wrap(model, name)


def noise(backbone: Backbone, rows: int = 2) -> Tensor:
    """Rows of a size that the model takes: a small one where it has the choice."""
    size = getattr(getattr(backbone.model, "patch_embed", None), "img_size", None)
    height, width = size or ((160, 160) if backbone.fixed_size else (96, 96))
    return torch.randn((rows, 3, height, width), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("family", "name"), MODELS)
@torch.inference_mode()
def test_composed_segments_equal_timms_forward_features_to_the_bit(family: str, name: str) -> None:
    backbone = full_depth(name)
    model: Any = backbone.model
    x = noise(backbone)
    expected = model.forward_features(x)
    assert type(model).__name__ == family
    assert backbone.shared
    assert len(backbone.segments) > 4
    assert torch.isfinite(expected).all()
    assert float(expected.std()) > 1e-3
    assert torch.equal(backbone.forward_features(x), expected)
    assert torch.equal(backbone.pool(expected), model(x))
    assert backbone.pool(expected).shape == (2, backbone.features)
    assert backbone.tokens(expected).shape[::2] == (2, backbone.channels)


@pytest.mark.parametrize(
    "name", [name for _, name in MODELS if name.startswith(("test_", "lcnet", "mobilenetv4"))] + [*SMALL]
)
@torch.inference_mode()
def test_a_tensor_belongs_to_one_segment_or_to_the_pooling_alone(name: str) -> None:
    backbone = random_backbone(name)
    owners = {
        tensor: [segment.name for segment in backbone.segments if segment.owns_tensor(tensor)]
        for tensor in backbone.model.state_dict()
    }
    assert {tensor: names for tensor, names in owners.items() if len(names) > 1} == {}
    segment_names = [segment.name for segment in backbone.segments]
    assert len(set(segment_names)) == len(segment_names)

    x = noise(backbone, rows=1)
    before = backbone.forward_features(x)
    for tensor, names in owners.items():
        if not names:
            backbone.model.state_dict()[tensor].zero_()
    assert torch.equal(backbone.forward_features(x), before)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "test_vit2", "test_vit3", "test_convnext"])
@torch.inference_mode()
def test_tensors_that_no_segment_owns_do_matter_to_the_pooling(name: str) -> None:
    backbone = random_backbone(name)
    features = backbone.forward_features(noise(backbone, rows=1))
    before = backbone.pool(features)
    unowned = [tensor for tensor in backbone.model.state_dict() if backbone.segment_of(tensor) is None]
    assert unowned
    for tensor in unowned:
        backbone.model.state_dict()[tensor].zero_()
    assert not torch.equal(backbone.pool(features), before)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
@torch.inference_mode()
def test_leaving_one_block_out_would_be_noticed(name: str) -> None:
    backbone = random_backbone(name)
    x = noise(backbone, rows=1)
    expected = backbone.forward_features(x)
    same_shape = [segment for segment in backbone.segments if "blocks" in segment.name or "layer1" in segment.name]
    for left_out in same_shape[1:2]:
        y = x
        for segment in backbone.segments:
            y = y if segment is left_out else segment(y)
        assert not torch.equal(y, expected)


@pytest.mark.parametrize("name", UNKNOWN)
@torch.inference_mode()
def test_an_unknown_family_is_one_segment_whose_rows_are_never_mixed(name: str) -> None:
    backbone = random_backbone(name)
    model: Any = backbone.model
    x = noise(backbone)
    assert [segment.name for segment in backbone.segments] == ["features"]
    assert not backbone.segments[0].mixable
    assert not backbone.shared
    assert torch.equal(backbone.forward_features(x), model.forward_features(x))


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_family_owns_all_but_its_head(name: str) -> None:
    backbone = random_backbone(name)
    head = backbone.classifier.partition(".")[0]
    tensors = list(backbone.model.state_dict())
    unowned = [tensor for tensor in tensors if backbone.segment_of(tensor) is None]
    assert unowned == [tensor for tensor in tensors if tensor.startswith(f"{head}.")]


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "efficientformerv2_s0"])
def test_a_model_with_several_classifiers_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="several classifiers") as caught:
        wrap(create_model(name), name)
    assert caught.value.value == name
    assert caught.value.fix


@torch.inference_mode()
def test_the_forward_pass_can_start_at_any_segment() -> None:
    backbone = random_backbone("test_vit")
    x = noise(backbone)
    expected = backbone.forward_features(x)
    for start in range(1, len(backbone.segments) + 1):
        x = backbone.segments[start - 1](x)
        assert torch.equal(backbone.forward_features(x, start), expected)


def test_a_backbone_is_frozen_and_in_evaluation_mode() -> None:
    backbone = random_backbone("test_resnet")
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
