"""What lies at an address: an adapter of PEFT's or a whole checkpoint, of a timm model or of a Hugging Face ViT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lensmount.errors import InvalidInputError
from lensmount_adapters.importing.names import in_timm
from lensmount_adapters.importing.peft_file import PeftFile, read_peft, tensor_file
from lensmount_adapters.importing.reading import PICKLED, file_hash, read_json, read_tensors
from lensmount_adapters.package import CONFIG_FILE, MANIFEST_FILE

SETTINGS_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
FIX = "give the folder of a PEFT adapter, or the weights of a timm model or of a ViTForImageClassification"


@dataclass(frozen=True, eq=False)
class Source:
    """What was read, names as they are in the file.

    `settings` is `config.json` and `processor` `preprocessor_config.json`, each empty without one; `peft` is None for
    a whole checkpoint, which `tensors` are then. `hugging_face` tells a ViT of transformers' from a timm model;
    `data_hash` is the SHA-256 of the file of weights.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    processor: Mapping[str, Any]
    peft: PeftFile | None
    hugging_face: bool
    data_hash: str


def read_source(path: Path) -> Source:
    """Read a folder or a file of weights.

    Raises InvalidInputError for what is neither, or a model of another architecture, and what `reading` raises.
    """
    if path.is_dir() and (path / MANIFEST_FILE).is_file():
        fix = "lensmount register PATH brings it to a server; lensmount adapters fetch gets one from elsewhere"
        raise InvalidInputError("this is a package already", field="source", value=path.name, fix=fix)
    settings = _optional(path, SETTINGS_FILE)
    processor = _optional(path, PROCESSOR_FILE)
    if path.is_dir() and (path / CONFIG_FILE).is_file():
        peft = read_peft(path)
        digest = file_hash(tensor_file(path))
        return Source({}, settings, processor, peft, _is_vit(peft.modules), digest)
    _check_architecture(settings)
    weights = _weights_of(path)
    tensors = read_tensors(weights)
    return Source(tensors, settings, processor, None, _is_vit(tensors), file_hash(weights))


def _is_vit(names: Iterable[str]) -> bool:
    """Whether these are names of a Hugging Face ViT; no model of timm's shares one of them."""
    return any(in_timm(name) for name in names)


def _optional(path: Path, name: str) -> dict[str, Any]:
    """The JSON file of a folder; empty where there is none."""
    file = path / name
    return read_json(file) if path.is_dir() and file.is_file() else {}


def _check_architecture(settings: Mapping[str, Any]) -> None:
    kind = settings.get("model_type", "vit")
    if kind != "vit":
        message = "of the models of transformers only ViT is imported"
        raise InvalidInputError(message, field=f"{SETTINGS_FILE}: model_type", value=kind, fix=FIX)


def _weights_of(path: Path) -> Path:
    """The one file of weights at a path."""
    if path.is_file():
        if path.suffix not in {".safetensors", *PICKLED}:
            raise InvalidInputError("no file of weights", field="source", value=path.name, fix=FIX)
        return path
    usual = [path / name for name in WEIGHTS_FILES if (path / name).is_file()]
    found = usual or sorted(file for file in path.iterdir() if file.suffix in {".safetensors", *PICKLED})
    if not found:
        raise InvalidInputError("no adapter and no weights in the folder", field="source", value=path.name, fix=FIX)
    if len(found) > 1 and not usual:
        names = ", ".join(file.name for file in found[:4])
        raise InvalidInputError("more than one file of weights", field="source", value=names, fix="give the one file")
    return found[0]
