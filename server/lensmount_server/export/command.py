"""`lensmount export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from lensmount.cli.group import CommandGroup
from lensmount.errors import MissingExtraError
from lensmount_adapters.admission import admit_to, look_at
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.backbones.default import AUTO, default_backbone
from lensmount_server.engine.settings import DEFAULT_MERGED_MIB, DEVICES, ENGINES, PRECISIONS, EngineSettings
from lensmount_server.export.triton import export_triton
from lensmount_server.tools.unpacking import unpacked


@click.group(cls=CommandGroup, entry_group="lensmount.commands.export")
def export() -> None:
    """Write what other servers run."""


@export.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--backbone", default=AUTO, show_default=True, help="timm's name of the shared model.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Its weights (safetensors).")
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True, help="Where Triton computes.")
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True, help="What computes there.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="And in what.")
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Computing threads; 0: one a core.")
@click.option(
    "--merged-mib",
    type=click.IntRange(0, 1 << 20),
    default=DEFAULT_MERGED_MIB,
    show_default=True,
    help="Memory for merged tails of hot adapters.",
)
def triton(folder: Path, backbone: str, weights: Path | None, **settings: Any) -> None:
    """Write a model repository with which NVIDIA Triton hosts the engine.

    \b
        lensmount export triton models/ --backbone vit_small_patch16_224
        tritonserver --model-repository models/
        lensmount serve --backend triton --triton-url localhost:8001
    """  # noqa: D301 - click wants the control character
    name = default_backbone().name if backbone == AUTO else backbone
    written = export_triton(folder, load_backbone(name, weights), EngineSettings(**settings))
    Console().print(f"{name} for Triton in [bold]{written}[/]; its README says how to start it")


@export.command()
@click.argument("package", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="The backbone's (safetensors).")
def onnx(package: Path, folder: Path, weights: Path | None) -> None:
    """Write one task as a plain ONNX model, for a Triton without lensmount.

    The package's golden pictures must get the trainer's logits from it.

    \b
        lensmount export onnx runs/defect models/
        tritonserver --model-repository models/
    """  # noqa: D301 - click wants the control character
    try:
        from lensmount_server.export.onnx_model import export_onnx  # noqa: PLC0415 - the other command needs no ONNX
    except ModuleNotFoundError as error:
        fix = "pip install 'lensmount[triton]'"
        raise MissingExtraError("export onnx needs the extra 'triton'", field=str(error.name), fix=fix) from error
    with unpacked(package) as unzipped:
        seen = look_at(unzipped, _nobody)
        backbone = load_backbone(seen.described.manifest.backbone.name, weights)
        written, difference = export_onnx(folder, admit_to(backbone, seen, _nobody), backbone)
    found = f"its golden logits are within {difference:.1e} of the trainer's, by their scale"
    Console().print(f"ONNX model in [bold]{written}[/]; {found}")


def _nobody(_name: str, _detail: str) -> None:
    """Nobody listens to the checks that pass."""
