"""What PEFT saved of a LoRA adapter: by module of the model that it was trained on, whatever that is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.importing.reading import read_json, read_tensors
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.manifest import invalid
from lensmount_adapters.package import CONFIG_FILE, PREFIX, TENSOR_FILE

FIX = "save it again with PEFT: model.save_pretrained(folder)"
PICKLED_FILE = "adapter_model.bin"

_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[AB])(\.(?P<adapter>[^.]+))?\.(?P<what>weight|bias)")
_LENGTH = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(\..+)?")


@dataclass(frozen=True, eq=False)
class TunedModule:
    """PEFT's tensors of one module: A (rank, in, …), B (out, rank, …) and what B·A·x is multiplied with.

    `b_bias` (out,) is lora_B's own bias, before the scale; `lengths` are DoRA's, as PEFT shapes them.
    """

    a: Tensor
    b: Tensor
    scale: float
    b_bias: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of A."""
        return len(self.a)


@dataclass(frozen=True, eq=False)
class PeftFile:
    """An adapter as PEFT wrote it; names are those of the model, without PEFT's prefix.

    `modules` have A and B; `tensors` are whole ones: biases that were trained, and modules that were saved as they
    are, the classifier among them. `saved` names these modules as the config does.
    """

    config: LoraConfig
    modules: Mapping[str, TunedModule]
    tensors: Mapping[str, Tensor]
    saved: tuple[str, ...]
    base: str
    base_revision: str


def read_peft(folder: Path) -> PeftFile:
    """Read an adapter's folder.

    Raises InvalidInputError for a config that can not be followed here or tensors that do not belong to it, and what
    `reading` raises.
    """
    raw = read_json(folder / CONFIG_FILE)
    config = parse_config(raw)
    modules, tensors = _sorted(_named(read_tensors(tensor_file(folder))))
    base, revision = raw.get("base_model_name_or_path"), raw.get("revision")
    return PeftFile(
        config=config,
        modules={name: _module(name, own, config) for name, own in modules.items()},
        tensors=tensors,
        saved=tuple(str(name) for name in raw.get("modules_to_save") or ()),
        base=base if isinstance(base, str) else "",
        base_revision=revision if isinstance(revision, str) else "",
    )


def parse_config(raw: Mapping[str, Any]) -> LoraConfig:
    """Parse `adapter_config.json`; raises InvalidInputError for settings that the engine does not compute."""
    # PEFT writes null where it means nothing.
    given = {name: value for name, value in raw.items() if value is not None}
    try:
        config = LoraConfig.model_validate(given)
    except ValidationError as error:
        raise invalid(CONFIG_FILE, error) from error
    config.check_supported()
    return config


def tensor_file(folder: Path) -> Path:
    """The file of an adapter's tensors; raises InvalidInputError without one."""
    for name in (TENSOR_FILE, PICKLED_FILE):
        if (folder / name).is_file():
            return folder / name
    raise InvalidInputError("file missing beside adapter_config.json", field="source", value=TENSOR_FILE, fix=FIX)


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without PEFT's prefix and wrappers, and without the copies that the wrappers keep."""
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    adapters = {found["adapter"] for found in map(_LORA.fullmatch, bare) if found and found["adapter"]}
    named: dict[str, Tensor] = {}
    for name, tensor in sorted(bare.items()):
        if ".original_module." in name:
            continue
        for adapter in ("default", *adapters):
            name = name.replace(f".modules_to_save.{adapter}.", ".")  # noqa: PLW2901 - one wrapper after the other
        named[name.replace(".modules_to_save.", ".").replace(".base_layer.", ".")] = tensor
    return named


def _sorted(named: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Tensors of LoRA by module and kind, and the others by name."""
    modules: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if found := _LORA.fullmatch(name):
            modules.setdefault(found["module"], {})[f"{found['kind']}.{found['what']}"] = tensor
        elif found := _LENGTH.fullmatch(name):
            modules.setdefault(found["module"], {})["lengths"] = tensor
        elif ".lora_" in name:
            message, fix = "no tensor of LoRA on a Linear or Conv2d", "train without this module in target_modules"
            raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", fix=fix)
        else:
            others[name] = tensor
    return modules, others


def _module(name: str, own: Mapping[str, Tensor], config: LoraConfig) -> TunedModule:
    wanted = {"A.weight", "B.weight"}
    wanted |= {"B.bias"} if config.lora_bias else set()
    wanted |= {"lengths"} if config.use_dora else set()
    if own.keys() != wanted:
        message = f"{_listed(wanted)} expected, as {CONFIG_FILE} says"
        raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=_listed(own), fix=FIX)
    a, b, rank = own["A.weight"], own["B.weight"], config.rank(name)
    if a.ndim != b.ndim or a.ndim not in {2, 4} or not a.shape[0] == b.shape[1] == rank:
        message, value = f"A and B of rank {rank} expected", f"{tuple(a.shape)}, {tuple(b.shape)}"
        raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=value, fix=FIX)
    return TunedModule(a, b, config.scale(name), own.get("B.bias"), own.get("lengths"))


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(sorted(kinds))
