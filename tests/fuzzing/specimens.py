"""The packages that are spoilt: one of each kind, right as they are, made the same way every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from lensmount_adapters.backbones import Backbone, load_backbone

BACKBONES = {"lora": "test_vit", "dora": "test_vit", "head": "test_vit", "replaced": "test_resnet"}


@dataclass(frozen=True)
class Specimen:
    """A package that fits its backbone: the bytes of its files."""

    name: str
    backbone: Backbone
    files: dict[str, bytes]


def make(folder: Path) -> None:
    """Write backbones and packages below `folder`."""
    from factories import head_package, lora_package, random_backbone, replaced_package  # noqa: PLC0415 - brings PEFT
    from lensmount_adapters.heads import HeadSpec  # noqa: PLC0415

    backbones = {name: random_backbone(name) for name in set(BACKBONES.values())}
    for name, backbone in backbones.items():
        tensors = {key: tensor.contiguous() for key, tensor in backbone.model.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    writers: dict[str, Callable[[Path, Backbone], object]] = {
        "lora": lora_package,
        "dora": lambda out, backbone: lora_package(out, backbone, use_dora=True, bias="all"),
        "head": lambda out, backbone: head_package(out / "package", backbone, head=HeadSpec(kind="attention")),
        "replaced": lambda out, backbone: replaced_package(out / "package", backbone),
    }
    for name, write in writers.items():
        (folder / name).mkdir()
        write(folder / name, backbones[BACKBONES[name]])


def load(folder: Path) -> list[Specimen]:
    """What `make` wrote, without PEFT, which takes seconds to import."""
    backbones = {name: load_backbone(name, folder / f"{name}.safetensors") for name in set(BACKBONES.values())}
    return [
        Specimen(name, backbones[backbone], _files(folder / name / "package")) for name, backbone in BACKBONES.items()
    ]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
