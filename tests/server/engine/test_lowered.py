"""Copies share what they do not change, and nothing reaches back into the original."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factories import SMALL, pictures, prepared, random_backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_server.engine.lowered import lowered, twin, with_tensors
from lensmount_server.engine.probes import relative_error

NAMES = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext", *SMALL]


def own(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_twin_has_modules_of_its_own_over_the_same_tensors(name: str) -> None:
    backbone = random_backbone(name)
    other = twin(backbone)
    assert not set(map(id, backbone.model.modules())) & set(map(id, other.model.modules()))
    assert {k: id(v) for k, v in own(backbone.model).items()} == {k: id(v) for k, v in own(other.model).items()}
    x = prepared(backbone, pictures(2))
    wanted = backbone.forward_features(x)
    assert torch.equal(other.forward_features(x), wanted)
    next(other.model.children()).register_forward_hook(lambda *_: torch.zeros(1))
    assert torch.equal(backbone.forward_features(x), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_exchanged_tensors_are_the_only_ones_of_a_copys_own(name: str) -> None:
    backbone = random_backbone(name)
    before = own(backbone.model)
    changed = [key for key, tensor in before.items() if tensor.is_floating_point()][1::2]
    copied = own(with_tensors(backbone.model, {key: before[key] + 1 for key in changed}))
    for key, tensor in before.items():
        if key in changed:
            assert torch.equal(copied[key], tensor + 1)
            assert isinstance(copied[key], nn.Parameter) == isinstance(tensor, nn.Parameter)
        else:
            assert copied[key] is tensor
    assert fingerprint(backbone.model) == backbone.fingerprint


def test_exchanged_tensors_take_the_models_precision() -> None:
    backbone = lowered(random_backbone("test_resnet"), torch.bfloat16)
    name, tensor = next(iter(backbone.model.named_parameters()))
    copied = with_tensors(backbone.model, {name: torch.ones(tensor.shape)})
    assert copied.get_parameter(name).dtype == torch.bfloat16
    assert copied.get_parameter(name).is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test_a_lowered_backbone_is_another_one_of_the_same_name() -> None:
    backbone = random_backbone("test_resnet")
    low = lowered(backbone, torch.bfloat16)
    assert (low.name, low.fingerprint) == (backbone.name, backbone.fingerprint)
    assert {tensor.dtype for tensor in low.model.parameters()} == {torch.bfloat16}
    assert not {id(tensor) for tensor in own(low.model).values()} & {id(t) for t in own(backbone.model).values()}
    assert fingerprint(backbone.model) == backbone.fingerprint
    x = prepared(backbone, pictures(2))
    assert relative_error(low.forward_features(x.bfloat16()).float(), backbone.forward_features(x)) < 0.05
