"""Ways to spoil a package folder, and what is said about it then."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lensmount.errors import InvalidInputError, LensmountError
from lensmount_adapters.admission import admit
from lensmount_adapters.backbones import Backbone
from lensmount_adapters.package import PREFIX, TENSOR_FILE

Tamper = Callable[[Path], object]

NOISE = ("Traceback", " at 0x", "<class", "tensor(", "{'", "b'", 'b"', "Value error", "pydantic", "_rust")


@dataclass(frozen=True)
class Kit:
    """A package that is right, and the backbone that it fits."""

    backbone: Backbone
    folder: Path


def complaint(kit: Kit, tmp_path: Path, tamper: Tamper, kind: type[LensmountError] = InvalidInputError) -> str:
    """What is said about the package once it was tampered with; it was right before."""
    folder = Path(shutil.copytree(kit.folder, tmp_path / "package"))
    admit(folder, kit.backbone, lambda *_: None)
    tamper(folder)
    with pytest.raises(LensmountError) as caught:
        admit(folder, kit.backbone, lambda *_: None)
    assert type(caught.value) is kind
    assert caught.value.field
    assert caught.value.fix
    text = str(caught.value)
    assert not [noise for noise in NOISE if noise in text], text
    assert "\n" not in text.replace(caught.value.value, "")
    assert len(text) < 600
    return text


def in_json(file: str, *path: str | int, value: object) -> Tamper:
    """Set the value at `path` of a JSON file."""

    def tamper(folder: Path) -> None:
        document: Any = json.loads((folder / file).read_text())
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / file).write_text(json.dumps(document))

    return tamper


def without_key(file: str, *path: str) -> Tamper:
    """Remove the key at `path` of a JSON file."""

    def tamper(folder: Path) -> None:
        document: Any = json.loads((folder / file).read_text())
        place = document
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        (folder / file).write_text(json.dumps(document))

    return tamper


def in_tensors(change: Callable[[dict[str, Tensor]], object], file: str = TENSOR_FILE) -> Tamper:
    """Change the tensors of a safetensors file in place, by their full names."""

    def tamper(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)

    return tamper


def tensor(name: str, change: Callable[[Tensor], Tensor]) -> Tamper:
    """Put `change` of the tensor of this name in the model in its place; it must be there."""

    def put(tensors: dict[str, Tensor]) -> None:
        tensors[PREFIX + name] = change(tensors[PREFIX + name])

    return in_tensors(put)


def with_first(value: float) -> Callable[[Tensor], Tensor]:
    """Set a tensor's first number."""

    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


def added(**tensors: Tensor) -> Tamper:
    """Add tensors; a double underscore in a name stands for a dot."""
    return in_tensors(lambda own: own.update({PREFIX + name.replace("__", "."): t for name, t in tensors.items()}))


def removed(name: str, file: str = TENSOR_FILE) -> Tamper:
    """Remove a tensor by its full name; it must be there."""
    return in_tensors(lambda tensors: tensors.pop(name), file)


def shortened(file: str, tenths: int) -> Tamper:
    """Keep the first tenths of a file."""

    def tamper(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) * tenths // 10])

    return tamper


def written(file: str, data: bytes) -> Tamper:
    """Write a file anew."""
    return lambda folder: (folder / file).write_bytes(data)


def with_header(file: str, change: Callable[[bytes], bytes]) -> Tamper:
    """Change the JSON header of a safetensors file; the length before it follows."""

    def tamper(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = change(data[8 : 8 + length])
        (folder / file).write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])

    return tamper


def both(*tampers: Tamper) -> Tamper:
    """One after the other."""

    def tamper(folder: Path) -> None:
        for one in tampers:
            one(folder)

    return tamper


def of_type(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Change a tensor's type."""
    return lambda tensor: tensor.to(dtype)
