"""PEFT's `adapter_config.json` for modules that are named one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lensmount_adapters.importing.peft_file import TunedModule
from lensmount_adapters.importing.trained import Trained


def peft_config(
    modules: Mapping[str, TunedModule], trained: Trained, classifier: str, model: Iterable[str]
) -> dict[str, Any]:
    """The config of these modules of a model with the module names `model`.

    Scales are written as alpha of each module by its rank, so rsLoRA's are plain ones here.
    """
    ranks = {name: own.rank for name, own in modules.items()}
    alphas = {name: own.scale * own.rank for name, own in modules.items()}
    return {
        "peft_type": "LORA",
        "bias": trained.bias,
        "use_dora": trained.dora,
        "lora_bias": trained.lora_bias,
        "use_rslora": False,
        "target_modules": target_modules(list(modules), model),
        "modules_to_save": [classifier],
        "r": _most(ranks.values()) if ranks else 1,
        "lora_alpha": _most(alphas.values()) if alphas else 1,
        "rank_pattern": _patterns(ranks),
        "alpha_pattern": _patterns(alphas),
        "inference_mode": True,
    }


def target_modules(names: list[str], model: Iterable[str]) -> list[str] | str:
    """The names, or an expression for exactly these where PEFT would take one for the end of another's name too."""
    taken = set(names)
    others = [name for name in model if name not in taken]
    if any(other.endswith(f".{name}") for other in others for name in names):
        return "|".join(re.escape(name) for name in names)
    return names


def _patterns(values: Mapping[str, float]) -> dict[str, float]:
    usual = _most(values.values()) if values else 0
    return {f"^{re.escape(name)}": value for name, value in values.items() if value != usual}


def _most(values: Iterable[float]) -> Any:
    return Counter(values).most_common(1)[0][0]
