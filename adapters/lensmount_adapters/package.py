"""The adapter package: a folder that PEFT itself can load, plus what serving needs to be sure.

    adapter_config.json          PEFT's own; only when there are LoRA edits
    adapter_model.safetensors    PEFT's names: LoRA tensors, the head and replaced segments as saved modules
    task.json                    the manifest
    golden.safetensors           pictures and the logits that the trainer got
    README.md                    the model card

`docs/adapter-package.md` is the specification. Pickle is never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_tensors
from torch import Tensor

from lensmount.errors import IncompatibleError, InvalidInputError, TooLargeError
from lensmount_adapters.golden import FILE as GOLDEN_FILE
from lensmount_adapters.golden import (
    Golden,
    check_golden_dtypes,
    check_golden_names,
    check_golden_shapes,
    read_golden,
    write_golden,
)
from lensmount_adapters.headers import FLOATS, WHOLE, Entry, check_header, damage_named, read_entries, read_tensors
from lensmount_adapters.lora import LoraConfig
from lensmount_adapters.manifest import Manifest, invalid, parse_manifest
from lensmount_adapters.saving import save_tensors
from lensmount_adapters.scratch import beside

MANIFEST_FILE = "task.json"
CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
CARD_FILE = "README.md"
REQUIRED = (MANIFEST_FILE, TENSOR_FILE, GOLDEN_FILE)
PREFIX = "base_model.model."
FIX = "write the package with `lensmount train`"

# No file of a package may be larger, in bytes.
MAX_BYTES = {
    MANIFEST_FILE: 1 << 20,
    CONFIG_FILE: 1 << 20,
    CARD_FILE: 4 << 20,
    GOLDEN_FILE: 64 << 20,
    TENSOR_FILE: 2 << 30,
}

# What of a package is needed to run it.
RUN_FILES = (MANIFEST_FILE, CONFIG_FILE, TENSOR_FILE)


@dataclass(frozen=True, eq=False)
class Content:
    """What of a package runs; not yet held against a backbone.

    `tensors` are named as in the model, PEFT's prefix removed, and lie in memory of their own: what
    happens to the file does not reach them. `lora` is None without LoRA edits.
    """

    manifest: Manifest
    lora: LoraConfig | None
    tensors: Mapping[str, Tensor]
    content_hash: str


@dataclass(frozen=True, eq=False)
class Package(Content):
    """A package that was read and is consistent in itself."""

    golden: Golden
    size_bytes: int


@dataclass(frozen=True, eq=False)
class Described:
    """What a package says of itself, none of its tensors read; entries by their names in the files."""

    folder: Path
    manifest: Manifest
    lora: LoraConfig | None
    tensors: Mapping[str, Entry]
    golden: Mapping[str, Entry]
    size_bytes: int

    def check_golden(self) -> None:
        """Raise InvalidInputError or TooLargeError for golden pictures or logits by which nothing can be checked."""
        check_golden_names(self.golden)
        check_golden_shapes(self.golden, len(self.manifest.labels))
        check_golden_dtypes(self.golden)

    def check_tensor_dtypes(self) -> None:
        """Raise InvalidInputError for a type that no tensor of any package has."""
        for name, entry in self.tensors.items():
            if entry.dtype not in (*FLOATS, *WHOLE):
                message, fix = f"{', '.join(FLOATS)} or I64 expected", "save the tensor as F32"
                raise InvalidInputError(message, field=f"{TENSOR_FILE}: {name}", value=entry.dtype, fix=fix)

    def read(self, content_hash: str) -> Package:
        """Read the tensors and the golden pictures, whose entries were checked; raises InvalidInputError."""
        tensors = _checked(read_tensors(self.folder / TENSOR_FILE))
        golden = read_golden(self.folder)
        return Package(self.manifest, self.lora, tensors, content_hash, golden, self.size_bytes)


def check_limits(folder: Path) -> None:
    """Raise unless the folder holds exactly a package's files, none of them, and no header, beyond its limits."""
    check_files(folder)
    for name in (TENSOR_FILE, GOLDEN_FILE):
        check_header(folder / name)


def describe(folder: Path) -> Described:
    """Read all of a package but its tensors; raises InvalidInputError for what is no task.json, config or header."""
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
    return Described(
        folder=folder,
        manifest=manifest,
        lora=_parse_config(manifest, _bytes_of(folder / CONFIG_FILE)),
        tensors=read_entries(folder / TENSOR_FILE),
        golden=read_entries(folder / GOLDEN_FILE),
        size_bytes=sum(path.stat().st_size for path in folder.iterdir()),
    )


def read_package(folder: Path) -> Package:
    """Read and check a package folder; InvalidInputError or TooLargeError names the first fault."""
    check_limits(folder)
    described = describe(folder)
    described.check_golden()
    described.check_tensor_dtypes()
    return described.read(content_hash(folder))


def read_content(folder: Path, expected_hash: str) -> Content:
    """Read what runs of a package that was checked as a whole before; its golden pictures are not looked at.

    The bytes that are hashed are the bytes that are used. Raises IncompatibleError when they are not those of
    `expected_hash`, InvalidInputError or TooLargeError when they can not run.
    """
    check_files(folder)
    files: dict[str, bytes] = {}
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        digest.update(_line(path.name, len(data), hashlib.sha256(data).hexdigest()))
        if path.name in RUN_FILES:
            files[path.name] = data
    if digest.hexdigest() != expected_hash:
        fix = "register the package again, and look at the disk"
        raise IncompatibleError("its package was changed on disk", field="package", value=folder.name, fix=fix)
    manifest = parse_manifest(files[MANIFEST_FILE])
    with damage_named(TENSOR_FILE):
        tensors = _checked(load_tensors(files.pop(TENSOR_FILE)))
    return Content(
        manifest=manifest,
        lora=_parse_config(manifest, files.get(CONFIG_FILE)),
        tensors=tensors,
        content_hash=expected_hash,
    )


def write_package(
    folder: Path,
    manifest: Manifest,
    tensors: Mapping[str, Tensor],
    golden: Golden,
    card: str,
    lora: Mapping[str, object] | None = None,
) -> None:
    """Write a package into a new folder; `lora` is PEFT's config as a dictionary.

    The folder gets its name only when it is whole. Raises InvalidInputError when it exists.
    """
    if folder.exists():
        fix = "give another --out, or delete the folder"
        raise InvalidInputError("the folder exists", field="out", value=folder, fix=fix)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as scratch:
        partial = scratch / folder.name
        partial.mkdir()
        (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
        save_tensors({PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}, partial / TENSOR_FILE)
        write_golden(partial, golden)
        (partial / CARD_FILE).write_text(card)
        if lora is not None:
            (partial / CONFIG_FILE).write_text(json.dumps(lora, indent=2, sort_keys=True) + "\n")
        partial.rename(folder)


def content_hash(folder: Path) -> str:
    """The identity of an adapter version: SHA-256 over name, size and SHA-256 of its files, by name."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(_line(path.name, path.stat().st_size, inner))
    return digest.hexdigest()


def check_files(folder: Path) -> None:
    """Raise unless the folder holds exactly a package's files, none beyond its limit."""
    if not folder.is_dir():
        raise InvalidInputError("no such folder", field="package", value=folder, fix="give the folder of a package")
    present = {path.name for path in folder.iterdir()}
    for name in REQUIRED:
        if name not in present:
            raise InvalidInputError("file missing in the package", field="package", value=name, fix=FIX)
    for path in sorted(folder.iterdir()):
        if path.name not in MAX_BYTES or path.is_symlink() or not path.is_file():
            fix = f"a package holds only the plain files {', '.join(MAX_BYTES)}"
            raise InvalidInputError("this does not belong into a package", field="package", value=path.name, fix=fix)
        check_size(path.name, path.stat().st_size)


def check_size(name: str, size: int) -> None:
    """Raise TooLargeError when a package's file is beyond its limit."""
    if size > MAX_BYTES[name]:
        message, fix = f"at most {MAX_BYTES[name]:,} bytes", "train a smaller adapter: fewer segments, a lower rank"
        raise TooLargeError(message, field=name, value=f"{size:,} bytes", fix=fix)


def _line(name: str, size: int, sha256: str) -> bytes:
    return f"{name} {size} {sha256}\n".encode()


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _parse_config(manifest: Manifest, text: bytes | None) -> LoraConfig | None:
    wanted = any(edit.kind == "lora" for edit in manifest.edits)
    if wanted != (text is not None):
        message = "needed for LoRA edits" if wanted else "given, but task.json names no LoRA edit"
        raise InvalidInputError(message, field=CONFIG_FILE, fix=FIX)
    if text is None:
        return None
    try:
        config = LoraConfig.model_validate_json(text)
    except ValidationError as error:
        raise invalid(CONFIG_FILE, error) from error
    config.check_supported()
    return config


def model_name(name: str) -> str:
    """A tensor's name in the model, from its name in a package; raises InvalidInputError."""
    if not name.startswith(PREFIX):
        raise InvalidInputError(f"names start with {PREFIX}", field=TENSOR_FILE, value=name, fix=FIX)
    return name.removeprefix(PREFIX)


def _checked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {model_name(name): _finite(name, tensor) for name, tensor in tensors.items()}


def _finite(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return tensor  # a count; whatever else it is does not fit any place
    if not bool(torch.isfinite(tensor).all()):
        fix = "train again with a lower learning rate"
        raise InvalidInputError("holds NaN or infinity", field=f"{TENSOR_FILE}: {name}", fix=fix)
    return tensor.float()
