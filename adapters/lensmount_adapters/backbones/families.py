"""timm's model families as lists of segments.

A family is a function that yields (name, owned paths, step) in forward order. Composed,
the steps equal the model's own `forward_features` to the bit; `tests/adapters` checks it
for each. A model of no family here becomes one segment whose rows are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lensmount_adapters.backbones.segments import Segment, Step, concatenated

Part = tuple[str, tuple[str, ...], Step]


def vision_transformer(model: Any) -> Iterator[Part]:
    """ViT (arXiv 2010.11929): patches and positions, blocks, final norm."""

    def stem(x: Tensor) -> Tensor:
        tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))  # noqa: SLF001
        return tokens

    yield "stem", ("patch_embed", "cls_token", "reg_token", "pos_embed", "patch_drop", "norm_pre"), stem
    yield from _children("blocks", model.blocks)
    yield "norm", ("norm",), model.norm


def resnet(model: Any) -> Iterator[Part]:
    """ResNet (arXiv 1512.03385): stem, then every residual block."""

    def stem(x: Tensor) -> Tensor:
        features: Tensor = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        return features

    yield "stem", ("conv1", "bn1", "act1", "maxpool"), stem
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        yield from _children(stage, getattr(model, stage))


def efficientnet(model: Any) -> Iterator[Part]:
    """EfficientNet (arXiv 1905.11946): stem, inverted residual blocks, convolution head."""
    yield from _mobile_trunk(model)
    yield "conv_head", ("conv_head", "bn2"), lambda x: model.bn2(model.conv_head(x))


def mobilenet_v3(model: Any) -> Iterator[Part]:
    """MobileNetV3 (arXiv 1905.02244): stem and blocks; its convolution head comes after pooling."""
    yield from _mobile_trunk(model)


def convnext(model: Any) -> Iterator[Part]:
    """ConvNeXt (arXiv 2201.03545): stem, a downsample and blocks for each stage, norm."""
    yield "stem", ("stem",), model.stem
    yield from _stages("stages", model.stages)
    yield "norm_pre", ("norm_pre",), model.norm_pre


def swin(model: Any) -> Iterator[Part]:
    """Swin (arXiv 2103.14030): patches, a downsample and blocks for each stage, norm."""
    yield "stem", ("patch_embed",), model.patch_embed
    yield from _stages("layers", model.layers)
    yield "norm", ("norm",), model.norm


def densenet(model: Any) -> Iterator[Part]:
    """DenseNet (arXiv 1608.06993): stem, every dense layer, transitions, norm."""
    stem_ends = list(model.features._modules).index("denseblock1")  # noqa: SLF001
    named = list(model.features.named_children())
    stem = [f"features.{name}" for name, _ in named[:stem_ends]]
    yield "stem", tuple(stem), nn.Sequential(*(module for _, module in named[:stem_ends]))
    for name, module in named[stem_ends:]:
        path = f"features.{name}"
        if name.startswith("denseblock"):
            for layer_name, layer in module.named_children():
                yield f"{path}.{layer_name}", (f"{path}.{layer_name}",), concatenated(layer)
        else:
            yield path, (path,), module


FAMILIES: dict[type[nn.Module], Callable[[Any], Iterator[Part]]] = {
    VisionTransformer: vision_transformer,
    ResNet: resnet,
    EfficientNet: efficientnet,
    MobileNetV3: mobilenet_v3,
    ConvNeXt: convnext,
    SwinTransformer: swin,
    DenseNet: densenet,
}


def segments_of(model: nn.Module) -> tuple[Segment, ...]:
    """The model's segments in forward order; one unmixable segment for an unknown family."""
    family = FAMILIES.get(type(model))
    if family is None:
        features: Any = model
        head = features.default_cfg["classifier"].partition(".")[0]
        owns = dict.fromkeys(name.partition(".")[0] for name in model.state_dict())
        return (Segment("features", model, sorted(owns.keys() - {head}), features.forward_features, mixable=False),)
    return tuple(Segment(name, model, owns, step) for name, owns, step in family(model))


def _children(path: str, modules: nn.Module) -> Iterator[Part]:
    for name, module in modules.named_children():
        yield f"{path}.{name}", (f"{path}.{name}",), module


def _mobile_trunk(model: Any) -> Iterator[Part]:
    yield "stem", ("conv_stem", "bn1"), lambda x: model.bn1(model.conv_stem(x))
    for index, stage in enumerate(model.blocks):
        yield from _children(f"blocks.{index}", stage)


def _stages(path: str, stages: nn.Module) -> Iterator[Part]:
    for name, stage in stages.named_children():
        downsample: Any = stage.downsample
        if not isinstance(downsample, nn.Identity):
            yield f"{path}.{name}.downsample", (f"{path}.{name}.downsample",), downsample
        yield from _children(f"{path}.{name}.blocks", stage.get_submodule("blocks"))
