"""Ranks and scales of modules follow PEFT's patterns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lensmount.errors import InvalidInputError
from lensmount_adapters.lora import LoraConfig, LoraDelta, delta_shapes


def config(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"peft_type": "LORA", "r": 8, "lora_alpha": 16, **changes})


@pytest.mark.parametrize(
    ("patterns", "module", "rank"),
    [
        ({}, "blocks.1.attn.qkv", 8),
        ({"qkv": 2}, "blocks.1.attn.qkv", 2),
        ({"attn.qkv": 2}, "blocks.1.attn.qkv", 2),
        ({"blocks.1.attn.qkv": 2}, "blocks.1.attn.qkv", 2),
        ({"^blocks.1.attn.qkv": 2}, "blocks.1.attn.qkv", 2),
        ({"kv": 2}, "blocks.1.attn.qkv", 8),
        ({"qk": 2}, "blocks.1.attn.qkv", 8),
        ({"^attn.qkv": 2}, "blocks.1.attn.qkv", 8),
        ({"proj|qkv": 2}, "blocks.1.attn.qkv", 2),
        ({r"blocks\.\d\.attn\.qkv": 2}, "blocks.1.attn.qkv", 2),
        ({"attn.qkv": 2, "qkv": 3}, "blocks.1.attn.qkv", 2),
        ({"qkv": 3, "attn.qkv": 2}, "blocks.1.attn.qkv", 3),
    ],
)
def test_a_pattern_sets_the_rank_of_the_modules_that_it_matches(
    patterns: dict[str, int], module: str, rank: int
) -> None:
    assert config(rank_pattern=patterns).rank(module) == rank


def test_the_scale_is_alpha_over_rank() -> None:
    assert config().scale("fc1") == 2.0
    assert config(rank_pattern={"fc1": 2}).scale("fc1") == 8.0
    assert config(alpha_pattern={"fc1": 4}).scale("fc1") == 0.5
    assert config(alpha_pattern={"fc1": 4}).scale("fc2") == 2.0
    assert config(rank_pattern={"fc1": 2}, alpha_pattern={"fc1": 5}).scale("fc1") == 2.5


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert config(use_rslora=True).scale("fc1") == pytest.approx(16 / math.sqrt(8))
    assert config(use_rslora=True, rank_pattern={"fc1": 4}).scale("fc1") == 8.0


def test_settings_that_change_nothing_are_left_alone() -> None:
    config(use_dora=False, lora_bias=False, megatron_config=None, init_lora_weights=True, whatever=3).check_supported()
    config(init_lora_weights="gaussian").check_supported()


@pytest.mark.parametrize(
    ("module", "a", "b"),
    [
        (nn.Linear(5, 7), (8, 5), (7, 8)),
        (nn.Conv2d(5, 7, 3, stride=2, padding=1, dilation=2), (8, 5, 3, 3), (7, 8, 1, 1)),
        (nn.Conv2d(5, 7, (1, 3)), (8, 5, 1, 3), (7, 8, 1, 1)),
    ],
)
def test_a_delta_that_fits_has_the_shape_of_the_output(
    module: nn.Module, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    delta = LoraDelta(torch.randn(a), torch.randn(b), 2.0)
    assert delta_shapes("m", module, 8) == (a, b)
    x = torch.randn((2, 3, 5) if isinstance(module, nn.Linear) else (2, 5, 9, 9))
    assert delta.of(module, x).shape == module(x).shape


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.LayerNorm(4),
        nn.Conv1d(4, 4, 1),
    ],
)
def test_modules_that_lora_can_not_edit_are_refused(module: nn.Module) -> None:
    with pytest.raises(InvalidInputError) as caught:
        delta_shapes("blocks.0.conv", module, 8)
    assert caught.value.field == "blocks.0.conv"
    assert "target_modules" in caught.value.fix
