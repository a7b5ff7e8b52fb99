"""DoRA's lengths and biases that are wrong, missing, or there without PEFT's settings asking for them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from factories import fitted, lora_package, random_backbone
from lensmount_adapters.package import CONFIG_FILE, MANIFEST_FILE, PREFIX, TENSOR_FILE
from tampering import Kit, Tamper, added, both, complaint, in_json, in_tensors, of_type, removed, tensor, with_first

NAN = float("nan")
QKV = "blocks.5.attn.qkv"
LENGTHS = f"{QKV}.lora_magnitude_vector"
Case = tuple[Tamper, str]


def kit(folder: Path, name: str, **options: Any) -> Kit:
    backbone = random_backbone(name)
    lora_package(folder, backbone, **options)
    return Kit(backbone, folder / "package")


def check(case: Case, right: Kit, tmp_path: Path) -> None:
    tamper, expected = case
    text = complaint(right, tmp_path, tamper)
    assert text.startswith((TENSOR_FILE, MANIFEST_FILE))
    assert re.search(expected, text), text


@pytest.fixture(scope="module")
def dora(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return kit(tmp_path_factory.mktemp("dora"), "test_vit", use_dora=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return kit(tmp_path_factory.mktemp("trained"), "test_vit", bias="lora_only")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return kit(tmp_path_factory.mktemp("own"), "test_vit", lora_bias=True)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return kit(tmp_path_factory.mktemp("every"), "test_vit", bias="all")


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Convolutions, none with a bias."""
    return kit(tmp_path_factory.mktemp("conv"), "test_resnet")


def a_row_of_zeros(right: Kit) -> Tamper:
    """A and B that cancel the first row of the weight."""
    weight = right.backbone.model.get_parameter(f"{QKV}.weight").detach()

    def put(tensors: dict[str, Tensor]) -> None:
        a, b = tensors[f"{PREFIX}{QKV}.lora_A.weight"], tensors[f"{PREFIX}{QKV}.lora_B.weight"]
        a[0], b[0] = -weight[0] / 2, 0
        b[0, 0] = 1

    return in_tensors(put)


DORA: dict[str, Case] = {
    "no lengths": (removed(PREFIX + LENGTHS), f"{LENGTHS}: missing, and adapter_config.json says use_dora=True"),
    "lengths without DoRA": (
        in_json(CONFIG_FILE, "use_dora", value=False),
        "lora_magnitude_vector: given, and adapter_config.json says use_dora=False",
    ),
    "too few": (tensor(LENGTHS, lambda t: t[:5]), rf"{LENGTHS}: shape \(192,\) expected .*\(5,\)"),
    "of a convolution": (tensor(LENGTHS, lambda t: t.view(1, -1, 1, 1)), rf"{LENGTHS}: .*\(192,\) expected"),
    "whole numbers": (tensor(LENGTHS, of_type(torch.int64)), rf"{LENGTHS}: F32 or F16 or BF16 expected .got I64"),
    "NaN": (tensor(LENGTHS, with_first(NAN)), f"{LENGTHS}: holds NaN or infinity"),
    "under both names": (
        added(blocks__5__attn__qkv__lora_magnitude_vector__weight=torch.ones(192)),
        f"{LENGTHS}.weight: belongs to no edit",
    ),
    "without A and B": (
        both(removed(f"{PREFIX}{QKV}.lora_A.weight"), removed(f"{PREFIX}{QKV}.lora_B.weight")),
        f"{LENGTHS}: belongs to no edit",
    ),
    "a bias of B": (
        added(blocks__5__attn__qkv__lora_B__bias=torch.ones(192)),
        "lora_B.bias: given, and adapter_config.json says lora_bias=False",
    ),
}


@pytest.mark.parametrize("case", DORA)
def test_wrong_lengths(case: str, dora: Kit, tmp_path: Path) -> None:
    check(DORA[case], dora, tmp_path)


def test_a_row_that_has_no_direction(dora: Kit, tmp_path: Path) -> None:
    check((a_row_of_zeros(dora), f"{QKV}.weight: DoRA makes NaN or infinity of it: a row is zero"), dora, tmp_path)


def test_dora_on_a_depthwise_convolution(tmp_path: Path) -> None:
    right = kit(tmp_path / "right", "test_efficientnet", use_dora=True)
    modules = right.backbone.segments[-2].editable_modules()
    name, module = next((name, m) for name, m in modules.items() if isinstance(m, nn.Conv2d) and m.groups > 1)
    flat, out = name.replace(".", "__"), module.out_channels
    tensors = {
        f"{flat}__lora_A__weight": torch.ones(4, 1, *module.kernel_size),
        f"{flat}__lora_B__weight": torch.ones(out, 4, 1, 1),
        f"{flat}__lora_magnitude_vector": torch.ones(1, out, 1, 1),
    }
    check((added(**tensors), f"{name}: LoRA on a grouped convolution is not supported"), right, tmp_path)


TRAINED: dict[str, Case] = {
    "missing": (removed(f"{PREFIX}{QKV}.base_layer.bias"), f"{QKV}.base_layer.bias: missing, and .*bias=lora_only"),
    "not asked for": (in_json(CONFIG_FILE, "bias", value="none"), "base_layer.bias: given, and .*says bias=none"),
    "too few": (tensor(f"{QKV}.base_layer.bias", lambda t: t[:5]), r"base_layer.bias: shape \(192,\) expected"),
    "NaN": (tensor(f"{QKV}.base_layer.bias", with_first(NAN)), f"{QKV}.base_layer.bias: holds NaN"),
    "of a norm": (added(blocks__5__norm1__bias=torch.ones(64)), "blocks.5.norm1.bias: belongs to no edit"),
    "under its first name": (added(blocks__5__attn__qkv__bias=torch.ones(192)), f"{QKV}.bias: belongs to no edit"),
}


@pytest.mark.parametrize("case", TRAINED)
def test_wrong_trained_biases(case: str, trained: Kit, tmp_path: Path) -> None:
    check(TRAINED[case], trained, tmp_path)


OWN: dict[str, Case] = {
    "missing": (removed(f"{PREFIX}{QKV}.lora_B.bias"), f"{QKV}.lora_B.bias: missing, and .*lora_bias=True"),
    "not asked for": (in_json(CONFIG_FILE, "lora_bias", value=False), "lora_B.bias: given, and .*lora_bias=False"),
    "transposed": (
        tensor(f"{QKV}.lora_B.bias", lambda t: t[:, None]),
        r"lora_B.bias: .*\(192,\) expected .*\(192, 1\)",
    ),
    "NaN": (tensor(f"{QKV}.lora_B.bias", with_first(NAN)), f"{QKV}.lora_B.bias: holds NaN"),
    "of A": (added(blocks__5__attn__qkv__lora_A__bias=torch.ones(4)), "lora_A.bias: belongs to no edit"),
}


@pytest.mark.parametrize("case", OWN)
def test_wrong_biases_of_b(case: str, own: Kit, tmp_path: Path) -> None:
    check(OWN[case], own, tmp_path)


EVERY: dict[str, Case] = {
    "of a norm, missing": (removed(f"{PREFIX}blocks.5.norm1.bias"), "blocks.5.norm1.bias: missing"),
    "of a norm, too few": (tensor("blocks.5.norm1.bias", lambda t: t[:5]), r"norm1.bias: .*\(64,\) expected"),
    "of a norm, not asked for": (in_json(CONFIG_FILE, "bias", value="lora_only"), "no LoRA tensor for this segment"),
    "in a segment that is not edited": (
        both(
            in_json(MANIFEST_FILE, "edits", value=[{"segment": "blocks.5", "kind": "lora"}]),
            in_json(MANIFEST_FILE, "fork", value=6),
        ),
        r"blocks\.0\.attn\.proj\.bias: a bias in no segment that task\.json edits must be the backbone's own",
    ),
    "of the head, another": (
        tensor("head.modules_to_save.bias", with_first(9.0)),
        "head.modules_to_save.bias: a bias in no segment .* must be",
    ),
    "of the head, a weight": (
        added(head__modules_to_save__weight=torch.ones(3, 64)),
        "head.modules_to_save.weight: belongs to no edit",
    ),
    "that the head replaced, huge": (
        added(head__original_module__bias=torch.ones(70_000)),
        r"head.original_module.bias: one row of at most 65,536 numbers expected .got \(70000,\)",
    ),
    "that the head replaced, whole": (
        added(head__original_module__bias=torch.ones(3, dtype=torch.int64)),
        "head.original_module.bias: F32 or F16 or BF16 expected .got I64",
    ),
    "of nothing": (added(blocks__9__norm1__bias=torch.ones(64)), "blocks.9.norm1.bias: belongs to no edit"),
    "a norm's weight": (added(blocks__5__norm1__weight=torch.ones(64)), "blocks.5.norm1.weight: belongs to no edit"),
    "a fork behind the first bias": (in_json(MANIFEST_FILE, "fork", value=6), "fork: 0 follows from the edits"),
}


@pytest.mark.parametrize("case", EVERY)
def test_wrong_biases_of_a_whole_model(case: str, every: Kit, tmp_path: Path) -> None:
    check(EVERY[case], every, tmp_path)


@pytest.mark.parametrize(
    ("setting", "name"), [(("lora_bias", True), "lora_B__bias"), (("bias", "lora_only"), "base_layer__bias")]
)
def test_a_bias_for_a_module_that_has_none(setting: tuple[str, Any], name: str, conv: Kit, tmp_path: Path) -> None:
    bias = added(**{f"layer3__0__conv1__{name}": torch.ones(48)})
    tamper = both(in_json(CONFIG_FILE, setting[0], value=setting[1]), bias)
    expected = rf"layer3\.0\.conv1\.{name.replace('__', '.')}: the module has no bias to merge it into.*Fix: train with"
    check((tamper, expected), conv, tmp_path)


def test_trained_biases_of_modules_without_any_are_none(conv: Kit, tmp_path: Path) -> None:
    """PEFT writes none for them, and says bias="lora_only" all the same."""
    folder = Path(shutil.copytree(conv.folder, tmp_path / "package"))
    in_json(CONFIG_FILE, "bias", value="lora_only")(folder)
    (deltas,) = fitted(folder, conv.backbone).lora.values()
    assert all(delta.bias is None for delta in deltas.values())
