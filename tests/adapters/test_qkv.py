"""Edits of queries and values alone, in a model that computes them with one Linear."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from factories import fitted, lora_package, queries_and_values_only, random_backbone
from lensmount.errors import InvalidInputError
from lensmount_adapters.lora import LoraDelta, delta_shapes
from lensmount_adapters.qkv import fused_qkv

WIDTH = 16
PARTS = ("q", "k", "v")


class Apart(nn.Module):
    """Queries, keys and values by a Linear each: what a model computes that does not fuse them."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        rows = zip(PARTS, fused.weight.detach().chunk(3), fused.bias.detach().chunk(3), strict=True)
        for name, weight, bias in rows:
            part = nn.Linear(WIDTH, WIDTH)
            part.load_state_dict({"weight": weight, "bias": bias})
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in PARTS], dim=-1)


def by_peft(fused: nn.Linear, ranks: Mapping[str, int], **options: Any) -> tuple[nn.Module, dict[str, LoraDelta]]:
    """PEFT's own model with separate edits of these parts, and the edits."""
    alphas = {name: 3.0 + rank for name, rank in ranks.items()}
    config = LoraConfig(
        target_modules=list(ranks), rank_pattern=dict(ranks), alpha_pattern=alphas, init_lora_weights=False, **options
    )
    model: Any = get_peft_model(Apart(fused), config).eval()
    deltas = {}
    for name, rank in ranks.items():
        layer = model.base_model.model.get_submodule(name)
        a, b = layer.lora_A.default.weight.detach(), layer.lora_B.default
        scale = alphas[name] / rank
        bias = b.bias.detach() * scale if options.get("lora_bias") else None
        deltas[name] = LoraDelta(a, b.weight.detach(), scale, bias)
    return model, deltas


@pytest.fixture
def fused() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, 3 * WIDTH)


@pytest.mark.parametrize("lora_bias", [False, True])
@pytest.mark.parametrize("ranks", [{"q": 2, "v": 3}, {"q": 4}, {"v": 1}, {"q": 1, "k": 2, "v": 3}], ids=str)
@torch.inference_mode()
def test_a_fused_edit_is_pefts_separate_ones(ranks: dict[str, int], fused: nn.Linear, *, lora_bias: bool) -> None:
    model, deltas = by_peft(fused, ranks, lora_bias=lora_bias)
    delta = fused_qkv(**deltas)
    assert (delta.a.shape, delta.b.shape) == delta_shapes("qkv", fused, sum(ranks.values()))
    x = torch.randn(5, 7, WIDTH)
    wanted = model(x)
    assert torch.allclose(fused(x) + delta.of(fused, x), wanted, atol=1e-5)
    assert not torch.allclose(fused(x), wanted, atol=1e-2)


@torch.inference_mode()
def test_parts_in_each_others_places_would_be_caught(fused: nn.Linear) -> None:
    model, deltas = by_peft(fused, {"q": 2, "v": 2})
    delta = fused_qkv(q=deltas["v"], v=deltas["q"])
    x = torch.randn(5, 7, WIDTH)
    assert not torch.allclose(fused(x) + delta.of(fused, x), model(x), atol=1e-2)


@torch.inference_mode()
def test_what_is_not_edited_stays_as_it_was_to_the_bit(fused: nn.Linear) -> None:
    _, deltas = by_peft(fused, {"q": 2, "v": 3})
    delta = fused_qkv(**deltas)
    x = torch.randn(5, 7, WIDTH)
    before, after = fused(x).chunk(3, dim=-1), (fused(x) + delta.of(fused, x)).chunk(3, dim=-1)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [False, True, False]
    merged = delta.merged_into(fused.weight).chunk(3)
    assert torch.equal(merged[1], fused.weight.chunk(3)[1])


@pytest.mark.parametrize("options", [{}, {"bias": "lora_only"}], ids=str)
def test_a_package_of_queries_and_values_alone_leaves_the_keys_alone(options: dict[str, Any], tmp_path: Path) -> None:
    backbone = random_backbone("test_vit")
    oracle = lora_package(tmp_path, backbone, change=queries_and_values_only, **options)
    changed = fitted(tmp_path / "package", backbone).merged(backbone.model)
    (name,) = (name for name in changed if name.endswith("qkv.weight"))
    assert torch.allclose(changed[name], oracle.get_parameter(name), rtol=1e-5, atol=1e-6)
    before, after = backbone.model.get_parameter(name).chunk(3), changed[name].chunk(3)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [False, True, False]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({}, "qkv"),
        ({"q": (4, 4), "v": (4, 6)}, "v"),
        ({"q": (4, 4), "k": (8, 4)}, "k"),
    ],
)
def test_parts_that_are_not_of_one_layer_are_refused(parts: dict[str, tuple[int, int]], field: str) -> None:
    deltas = {name: LoraDelta(torch.ones(2, fan_in), torch.ones(out, 2), 1.0) for name, (out, fan_in) in parts.items()}
    with pytest.raises(InvalidInputError) as caught:
        fused_qkv(**deltas)
    assert caught.value.field == field
    assert caught.value.fix
