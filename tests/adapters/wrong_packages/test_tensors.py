"""Tensors that do not belong together, or not to the backbone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lensmount_adapters.package import CONFIG_FILE, PREFIX, TENSOR_FILE
from tampering import (
    Kit,
    Tamper,
    added,
    both,
    complaint,
    in_json,
    in_tensors,
    of_type,
    removed,
    tensor,
    with_first,
    written,
)

NAN, INF = float("nan"), float("inf")
QKV = "blocks.5.attn.qkv"


def test_any_one_wrong_type_of_tensor(vit: Kit, tmp_path: Path) -> None:
    types = {
        "F64": torch.float64, "I8": torch.int8, "U8": torch.uint8, "I16": torch.int16, "I32": torch.int32,
        "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "I64": torch.int64,
    }  # fmt: skip
    for word, dtype in types.items():
        text = complaint(vit, tmp_path / word, tensor(f"{QKV}.lora_A.weight", of_type(dtype)))
        expected = rf"adapter_model\.safetensors: {QKV}.*lora_A\.weight: F32 or F16 or BF16 expected \(got {word}\)"
        assert re.search(expected, text)


TENSORS: dict[str, tuple[Tamper, str]] = {
    "NaN": (tensor(f"{QKV}.lora_A.weight", with_first(NAN)), f"{QKV}.lora_A.weight: holds NaN or infinity"),
    "inf": (tensor(f"{QKV}.lora_B.weight", with_first(INF)), f"{QKV}.lora_B.weight: holds NaN or infinity"),
    "-inf in the head": (tensor("head.bias", with_first(-INF)), "head.bias: holds NaN or infinity"),
    "whole numbers in A": (
        tensor(f"{QKV}.lora_A.weight", of_type(torch.int64)),
        rf"{QKV}.lora_A.weight: F32 or F16 or BF16 expected \(got I64",
    ),
    "whole numbers in the head": (
        tensor("head.weight", of_type(torch.int64)),
        "head.weight: F32 or F16 or BF16 expected",
    ),
    "A transposed": (
        tensor(f"{QKV}.lora_A.weight", torch.t),
        rf"{QKV}.lora_A.weight: .*\(4, 64\) expected .*\(64, 4\)",
    ),
    "B transposed": (
        tensor(f"{QKV}.lora_B.weight", torch.t),
        rf"{QKV}.lora_B.weight: .*\(192, 4\) expected .*\(4, 192\)",
    ),
    "A of another rank": (
        tensor(f"{QKV}.lora_A.weight", lambda t: t[:3]),
        rf"{QKV}.lora_A.weight: .*\(4, 64\) expected",
    ),
    "A with a third side": (
        tensor(f"{QKV}.lora_A.weight", lambda t: t[None]),
        rf"{QKV}.lora_A.weight: .*got .*\(1, 4, 64\)",
    ),
    "A a number": (
        tensor(f"{QKV}.lora_A.weight", lambda _: torch.tensor(1.0)),
        rf"{QKV}.lora_A.weight: .*\(4, 64\) expected",
    ),
    "A empty": (tensor(f"{QKV}.lora_A.weight", lambda t: t[:0]), rf"{QKV}.lora_A.weight: .*got .*\(0, 64\)"),
    "both of another rank": (
        both(
            tensor(f"{QKV}.lora_A.weight", lambda t: t[:3]),
            tensor(f"{QKV}.lora_B.weight", lambda t: t[:, :3]),
        ),
        rf"{QKV}.lora_A.weight: adapter_config.json says rank 4 \(got rank 3\).*rank of adapter_config",
    ),
    "the config's rank is another": (
        in_json(CONFIG_FILE, "r", value=8),
        r"lora_A.weight: .*says rank 8 \(got rank 4\)",
    ),
    "a pattern's rank is another": (
        in_json(CONFIG_FILE, "rank_pattern", value={"attn.qkv": 2}),
        rf"{QKV}.lora_A.weight: adapter_config.json says rank 2 \(got rank 4\)",
    ),
    "A without B": (removed(f"{PREFIX}{QKV}.lora_B.weight"), f"{QKV}.lora_B.weight: A without B"),
    "B without A": (removed(f"{PREFIX}{QKV}.lora_A.weight"), f"{QKV}.lora_B.weight: belongs to no edit"),
    "no LoRA tensor at all": (
        in_tensors(lambda own: [own.pop(name) for name in list(own) if "lora_" in name]),
        r"no LoRA tensor for this segment \(got blocks.5\)",
    ),
    "an extra tensor": (added(blocks__5__gamma=torch.ones(1)), "blocks.5.gamma: belongs to no edit"),
    "an edit that is not named": (
        added(
            blocks__4__attn__qkv__lora_A__weight=torch.ones(4, 64),
            blocks__4__attn__qkv__lora_B__weight=torch.ones(192, 4),
        ),
        "blocks.4.attn.qkv.lora_A.weight: belongs to no edit of task.json",
    ),
    "base weights beside": (added(blocks__5__attn__qkv__weight=torch.ones(192, 64)), "qkv.weight: belongs to no edit"),
    "another prefix": (
        in_tensors(lambda own: own.update({"model.x": torch.ones(1)})),
        r"names start with base_model\.model\. \(got model\.x\)",
    ),
    "no head": (removed(f"{PREFIX}head.weight"), "head.weight: missing"),
    "half a head": (removed(f"{PREFIX}head.bias"), "head.bias: missing"),
    "a head for other labels": (
        tensor("head.weight", lambda t: t[:2]),
        r"head.weight: .*\(3, 64\) expected .*\(2, 64\)",
    ),
    "a head for other features": (tensor("head.weight", lambda t: t[:, :9]), r"head.weight: .*\(3, 64\) expected"),
    "LoRA on a norm": (
        added(blocks__5__norm1__lora_A__weight=torch.ones(4, 64), blocks__5__norm1__lora_B__weight=torch.ones(64, 4)),
        "blocks.5.norm1.lora_A.weight: belongs to no edit",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_wrong_tensors(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = TENSORS[case]
    text = complaint(vit, tmp_path, tamper)
    assert text.startswith(TENSOR_FILE)
    assert re.search(expected, text), text


def test_lora_on_a_depthwise_convolution(effnet: Kit, tmp_path: Path) -> None:
    modules = effnet.backbone.segments[-2].editable_modules()
    name, module = next((name, m) for name, m in modules.items() if isinstance(m, torch.nn.Conv2d) and m.groups > 1)
    a, b = torch.ones(4, 1, *module.kernel_size), torch.ones(module.out_channels, 4, 1, 1)
    flat = name.replace(".", "__")
    text = complaint(effnet, tmp_path, added(**{f"{flat}__lora_A__weight": a, f"{flat}__lora_B__weight": b}))
    assert f"{name}: LoRA on a grouped convolution is not supported (got {module.groups} groups)" in text
    assert "target_modules" in text


REPLACED: dict[str, tuple[Tamper, str]] = {
    "a weight missing": (removed(f"{PREFIX}layer3.0.conv2.weight"), "layer3.0.conv2.weight: missing"),
    "a statistic missing": (removed(f"{PREFIX}layer3.0.bn1.running_var"), "layer3.0.bn1.running_var: missing"),
    "another shape": (
        tensor("layer3.0.conv2.weight", lambda t: t[:1]),
        r"layer3.0.conv2.weight: shape .* expected",
    ),
    "a count that is no whole number": (
        tensor("layer3.0.bn1.num_batches_tracked", of_type(torch.float32)),
        "num_batches_tracked: I64 expected",
    ),
    "a weight of whole numbers": (
        tensor("layer3.0.bn1.weight", of_type(torch.int64)),
        "layer3.0.bn1.weight: F32 or F16 or BF16 expected",
    ),
    "a tensor of another segment": (
        added(layer2__0__bn1__weight=torch.ones(48)),
        "layer2.0.bn1.weight: belongs to no edit",
    ),
    "NaN in a statistic": (tensor("layer3.0.bn1.running_var", with_first(NAN)), "running_var: holds NaN"),
}


@pytest.mark.parametrize("case", REPLACED)
def test_wrong_replaced_segments(case: str, resnet: Kit, tmp_path: Path) -> None:
    tamper, expected = REPLACED[case]
    assert re.search(expected, complaint(resnet, tmp_path, tamper))


def test_a_config_without_lora_edits(resnet: Kit, vit: Kit, tmp_path: Path) -> None:
    config = (vit.folder / CONFIG_FILE).read_bytes()
    assert "names no LoRA edit" in complaint(resnet, tmp_path, written(CONFIG_FILE, config))
