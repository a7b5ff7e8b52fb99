"""The fingerprint stands for every bit of the weights and for nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from factories import random_backbone
from lensmount_adapters.backbones.backbone import fingerprint


def test_equal_weights_have_the_same_fingerprint() -> None:
    first, second = random_backbone("test_resnet"), random_backbone("test_resnet")
    assert first.model is not second.model
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 64


def test_other_weights_have_another() -> None:
    assert random_backbone("test_vit", seed=1).fingerprint != random_backbone("test_vit", seed=2).fingerprint


@pytest.mark.parametrize("name", ["conv1.0.weight", "bn1.running_mean", "bn1.num_batches_tracked"])
def test_one_bit_of_any_tensor_counts(name: str) -> None:
    backbone = random_backbone("test_resnet")
    stored = backbone.model.state_dict()[name].reshape(-1).view(torch.uint8)
    stored[0] ^= 1
    changed = fingerprint(backbone.model)
    stored[0] ^= 1
    assert changed != backbone.fingerprint
    assert fingerprint(backbone.model) == backbone.fingerprint


def test_a_renamed_tensor_counts() -> None:
    one, other = nn.Module(), nn.Module()
    one.register_buffer("a", torch.ones(2))
    other.register_buffer("b", torch.ones(2))
    assert fingerprint(one) != fingerprint(other)


def test_two_tensors_that_trade_names_count() -> None:
    one, other = nn.Module(), nn.Module()
    for module, (a, b) in ((one, (0.0, 1.0)), (other, (1.0, 0.0))):
        module.register_buffer("a", torch.tensor(a))
        module.register_buffer("b", torch.tensor(b))
    assert fingerprint(one) != fingerprint(other)


def test_shape_and_dtype_count_where_the_bytes_are_equal() -> None:
    modules = [nn.Module() for _ in range(3)]
    for module, tensor in zip(
        modules, (torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32)), strict=True
    ):
        module.register_buffer("a", tensor)
    assert len({fingerprint(module) for module in modules}) == 3


def test_memory_layout_does_not_count() -> None:
    backbone = random_backbone("test_resnet")
    backbone.model.to(memory_format=torch.channels_last)
    assert fingerprint(backbone.model) == backbone.fingerprint


def test_order_of_registration_does_not_count() -> None:
    one, other = nn.Module(), nn.Module()
    for module, names in ((one, "ab"), (other, "ba")):
        for name in names:
            module.register_buffer(name, torch.tensor(ord(name)))
    assert fingerprint(one) == fingerprint(other)
