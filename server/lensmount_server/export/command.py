"""`lensmount export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from lensmount.cli.group import CommandGroup
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.backbones.default import AUTO, default_backbone
from lensmount_server.engine.settings import DEFAULT_MERGED_MIB, DEVICES, ENGINES, PRECISIONS, EngineSettings
from lensmount_server.export.triton import export_triton


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
