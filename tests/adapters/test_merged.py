"""An adapter merged into weights is the adapter itself: as PEFT merges it, and as its edits are run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from factories import fitted, head_package, lora_package, pictures, prepared, random_backbone, replaced_package
from lensmount_adapters.adapter import Adapter
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.backbone import fingerprint
from lensmount_adapters.lora import LoraDelta, merged

NAMES = ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"]


def lora(backbone: Backbone, folder: Path) -> tuple[Adapter, nn.Module]:
    oracle = lora_package(folder, backbone, segments=(-2, -3), rank=3, use_rslora=True)
    return fitted(folder / "package", backbone), oracle


def replaced(backbone: Backbone, folder: Path) -> tuple[Adapter, nn.Module]:
    oracle = replaced_package(folder / "package", backbone, segments=(-2,))
    return fitted(folder / "package", backbone), oracle


def both(backbone: Backbone, folder: Path) -> tuple[Adapter, nn.Module]:
    oracle = lora_package(folder, backbone, segments=(-2,), replaced=(1,))
    return fitted(folder / "package", backbone), oracle


def dora(backbone: Backbone, folder: Path) -> tuple[Adapter, nn.Module]:
    oracle = lora_package(folder, backbone, segments=(-2, -3), rank=3, use_dora=True, bias="lora_only")
    return fitted(folder / "package", backbone), oracle


def all_biases(backbone: Backbone, folder: Path) -> tuple[Adapter, nn.Module]:
    oracle = lora_package(folder, backbone, segments=(-2,), replaced=(1,), bias="all")
    return fitted(folder / "package", backbone), oracle


Make = Callable[[Backbone, Path], tuple[Adapter, nn.Module]]


@pytest.mark.parametrize("make", [lora, replaced, both, dora, all_biases])
@pytest.mark.parametrize("name", NAMES)
def test_merged_tensors_are_those_of_pefts_own_merged_model(name: str, make: Make, tmp_path: Path) -> None:
    backbone = random_backbone(name)
    adapter, oracle = make(backbone, tmp_path)
    changed = adapter.merged(backbone.model)
    base, wanted = backbone.model.state_dict(), oracle.state_dict()
    for key, tensor in base.items():
        if not tensor.is_floating_point():
            assert key not in changed
        elif key in changed:
            assert (changed[key].shape, changed[key].dtype) == (tensor.shape, tensor.dtype)
            assert torch.allclose(changed[key], wanted[key], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, wanted[key])
    assert changed.keys() <= base.keys()
    assert any(not torch.allclose(tensor, base[key], rtol=1e-3) for key, tensor in changed.items())
    assert fingerprint(backbone.model) == backbone.fingerprint


@torch.inference_mode()
def test_a_model_with_the_merged_tensors_answers_as_the_oracle(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    adapter, oracle = both(backbone, tmp_path)
    x = prepared(backbone, pictures(2))
    wanted = oracle(x)
    other: Any = random_backbone("test_resnet").model
    other.load_state_dict({**other.state_dict(), **adapter.merged(backbone.model)})
    got = adapter.head(other.forward_head(other.forward_features(x), pre_logits=True))
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapter.head(backbone.pool(backbone.forward_features(x))), wanted, rtol=1e-2, atol=1e-2)


def test_an_adapter_that_only_adds_a_head_changes_no_tensor(tmp_path: Path) -> None:
    backbone = random_backbone("test_resnet")
    head_package(tmp_path / "package", backbone)
    assert fitted(tmp_path / "package", backbone).merged(backbone.model) == {}


MODULES = [
    (nn.Linear(5, 7), (3, 5), (7, 3)),
    (nn.Conv2d(5, 7, 3, stride=2, padding=1, dilation=2), (3, 5, 3, 3), (7, 3, 1, 1)),
    (nn.Conv2d(5, 7, (1, 3)), (3, 5, 1, 3), (7, 3, 1, 1)),
    (nn.Conv2d(5, 7, 1), (3, 5, 1, 1), (7, 3, 1, 1)),
]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("module", "a", "b"), MODULES)
@torch.inference_mode()
def test_a_delta_merged_adds_to_the_output_what_it_adds_beside(
    module: Any, a: tuple[int, ...], b: tuple[int, ...], *, has_bias: bool
) -> None:
    torch.manual_seed(0)
    delta = LoraDelta(torch.randn(a), torch.randn(b), 1.5, torch.randn(7) if has_bias else None)
    x = torch.randn((2, 3, 5) if isinstance(module, nn.Linear) else (2, 5, 9, 9))
    before = module.weight.clone()
    changed = {name.removeprefix("m."): t for name, t in merged(nn.ModuleDict({"m": module}), {"m": delta}).items()}
    assert sorted(changed) == (["bias", "weight"] if has_bias else ["weight"])
    assert torch.equal(module.weight, before)
    wanted = module(x) + delta.of(module, x)
    got = torch.func.functional_call(module, changed, (x,))
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
    transposed = torch.func.functional_call(
        module, {**changed, "weight": before + (changed["weight"] - before).flip(0)}, (x,)
    )
    assert not torch.allclose(transposed, wanted, rtol=1e-2, atol=1e-2)


def test_a_merged_weight_has_the_precision_of_the_weight() -> None:
    delta = LoraDelta(torch.ones(2, 5), torch.ones(7, 2), 1.0)
    assert delta.merged_into(torch.zeros(7, 5, dtype=torch.float64)).dtype == torch.float64
    assert torch.equal(delta.merged_into(torch.zeros(7, 5)), torch.full((7, 5), 2.0))


def test_a_delta_in_another_precision_is_the_same_edit() -> None:
    delta = LoraDelta(torch.randn(2, 5), torch.randn(7, 2), 0.5, torch.randn(7))
    low = delta.to(torch.bfloat16)
    assert {tensor.dtype for tensor in low.tensors} == {torch.bfloat16}
    assert (low.a.dtype, low.b.dtype, low.scale) == (torch.bfloat16, torch.bfloat16, 0.5)
    assert torch.allclose(low.a.float(), delta.a, rtol=1e-2)
    assert torch.allclose(low.b.float(), delta.b, rtol=1e-2)
    assert delta.to(torch.float32).a is delta.a
    assert delta.a.dtype == torch.float32
