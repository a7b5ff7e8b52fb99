"""Settings of PEFT that are no numbers to compute with, or mean what is not computed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lensmount_adapters.package import CONFIG_FILE
from tampering import Kit, Tamper, both, complaint, in_json, without_key, written

NAN, INF = float("nan"), float("inf")

CONFIG: dict[str, tuple[Tamper, str]] = {
    "LoHa": (in_json(CONFIG_FILE, "peft_type", value="LOHA"), "peft_type: PEFT setting not supported .*got LOHA"),
    "no type": (without_key(CONFIG_FILE, "peft_type"), "peft_type: Field required"),
    "bias": (
        in_json(CONFIG_FILE, "bias", value="boft_only"),
        "bias: Input should be 'none', 'lora_only' or 'all'.*boft",
    ),
    "DoRA a word": (
        in_json(CONFIG_FILE, "use_dora", value="rows"),
        "use_dora: Input should be a valid boolean.*got rows",
    ),
    "DoRA with a bias of B": (
        both(in_json(CONFIG_FILE, "use_dora", value=True), in_json(CONFIG_FILE, "lora_bias", value=True)),
        "lora_bias: PEFT setting not supported .*with use_dora.*train without lora_bias",
    ),
    "QALoRA": (in_json(CONFIG_FILE, "use_qalora", value=True), "use_qalora: PEFT setting not supported"),
    "BD-LoRA": (in_json(CONFIG_FILE, "use_bdlora", value={"a": 1}), "use_bdlora: PEFT setting not supported"),
    "KaSA": (in_json(CONFIG_FILE, "kasa_config", value={"a": 1}), "kasa_config: PEFT setting not supported"),
    "parameters": (in_json(CONFIG_FILE, "target_parameters", value=["a"]), "target_parameters: PEFT setting not"),
    "PiSSA": (
        in_json(CONFIG_FILE, "init_lora_weights", value="pissa_niter_4"),
        "init_lora_weights: .*got pissa_niter_4",
    ),
    "rank 0": (in_json(CONFIG_FILE, "r", value=0), "r: Input should be greater than or equal to 1 .*got 0"),
    "rank 257": (in_json(CONFIG_FILE, "r", value=257), "r: Input should be less than or equal to 256 .*got 257"),
    "rank a word": (in_json(CONFIG_FILE, "r", value="four"), "r: Input should be a valid integer.*got four"),
    "no rank": (without_key(CONFIG_FILE, "r"), "r: Field required"),
    "alpha 0": (in_json(CONFIG_FILE, "lora_alpha", value=0), "lora_alpha: Input should be greater than 0"),
    "alpha NaN": (in_json(CONFIG_FILE, "lora_alpha", value=NAN), "lora_alpha: Input should be a finite number"),
    "alpha inf": (in_json(CONFIG_FILE, "lora_alpha", value=INF), "lora_alpha: Input should be a finite number"),
    "pattern rank 0": (in_json(CONFIG_FILE, "rank_pattern", value={"qkv": 0}), "rank_pattern.qkv: .*greater than"),
    "pattern rank 999": (in_json(CONFIG_FILE, "rank_pattern", value={"qkv": 999}), "rank_pattern.qkv: .*less than"),
    "pattern alpha 0": (in_json(CONFIG_FILE, "alpha_pattern", value={"qkv": 0}), "alpha_pattern.qkv: .*greater than 0"),
    "no regular expression": (
        in_json(CONFIG_FILE, "rank_pattern", value={"a|\\": 4}),
        "rank_pattern: .*regular expression",
    ),
    "an endless expression": (
        in_json(CONFIG_FILE, "alpha_pattern", value={"(a+)+b": 4}),
        "alpha_pattern.*String should match",
    ),
    "too many patterns": (
        in_json(CONFIG_FILE, "rank_pattern", value={f"m{i}": 4 for i in range(1001)}),
        "rank_pattern: .* at most 1000 items",
    ),
    "a list": (written(CONFIG_FILE, b"[]"), "adapter_config.json: Input should be an object"),
    "no JSON": (written(CONFIG_FILE, b"peft_type: LORA"), "adapter_config.json: Invalid JSON"),
    "no UTF-8": (written(CONFIG_FILE, b'{"peft_type": "\xff\xfe"}'), "adapter_config.json: Invalid JSON"),
    "empty": (written(CONFIG_FILE, b""), "adapter_config.json: Invalid JSON"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_wrong_peft_configs(case: str, vit: Kit, tmp_path: Path) -> None:
    tamper, expected = CONFIG[case]
    text = complaint(vit, tmp_path, tamper)
    assert text.startswith(CONFIG_FILE)
    assert re.search(expected, text), text
