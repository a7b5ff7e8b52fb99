"""`lensmount adapters check` and `lensmount adapters diff`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lensmount.cli import options
from lensmount.cli.output import console, print_json, table
from lensmount.client import Client
from lensmount.errors import LensmountError
from lensmount_adapters.backbones import load_backbone
from lensmount_adapters.diff import diff
from lensmount_adapters.package import Package, read_package
from lensmount_server.engine.settings import DEVICES, ENGINES, PRECISIONS, EngineSettings
from lensmount_server.policy import parse_policy
from lensmount_server.tools.answers import compare_answers
from lensmount_server.tools.checking import Setting, check_package
from lensmount_server.tools.fetching import fetch_package
from lensmount_server.tools.showing import show_diff
from lensmount_server.tools.unpacking import unpacked

PACKAGE = click.Path(path_type=Path)

backbone_option = click.option("--backbone", metavar="NAME", help="timm's name of the model [the package's].")
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), help="Its weights (safetensors)."
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The engine that `lensmount serve` would open; none without `--engine`."""
    for option in (
        click.option(
            "--device", type=click.Choice(DEVICES), default="cpu", show_default=True, help="Where it computes."
        ),
        click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True),
        click.option("--engine", type=click.Choice(ENGINES), help="Check with this engine of `lensmount serve` too."),
    ):
        command = option(command)
    return command


@click.command(
    epilog=options.examples(
        "lensmount adapters check runs/defect",
        "lensmount adapters check defect.zip --engine auto --minimum-metric macro_f1=0.9",
    )
)
@click.argument("path", type=PACKAGE)
@backbone_option
@weights_option
@engine_options
@click.option("--minimum-metric", "minima", multiple=True, metavar="[TASK:]NAME=NUMBER", help="As the server's policy.")
@options.as_json
def check(  # noqa: PLR0913 - one for each option
    path: Path,
    backbone: str | None,
    weights: Path | None,
    *,
    engine: str | None,
    precision: str,
    device: str,
    minima: tuple[str, ...],
    as_json: bool,
) -> None:
    """Take a package through the server's whole gate, without a server.

    PATH is the folder that `lensmount train` wrote, or a ZIP file of it.
    """
    settings = EngineSettings(engine, precision, device=device) if engine else None
    result = check_package(path, Setting(backbone, weights, settings, parse_policy(minima)))
    if as_json:
        print_json({"ok": result.error is None, "checks": result.checks, "error": _error(result.error)})
    elif result.checks:
        rows = ((own.name, f"{own.duration_ms:.1f}", own.detail) for own in result.checks)
        console().print(table("check", "ms", "detail", rows=rows))
    if result.error:
        raise result.error


@click.command(
    "diff",
    epilog=options.examples(
        "lensmount adapters diff runs/defect runs/defect-2 --logits",
        "lensmount adapters diff defect runs/defect-2      what would change",
    ),
)
@click.argument("before")
@click.argument("after")
@click.option("--logits", is_flag=True, help="Ask both about their golden pictures; needs the backbone.")
@backbone_option
@weights_option
@options.server
@options.as_json
def diff_(
    before: str, after: str, *, logits: bool, backbone: str | None, weights: Path | None, server: str, as_json: bool
) -> None:
    """Show what changed between two packages: labels, settings, metrics, edits, tensors, answers.

    BEFORE and AFTER are folders or ZIP files, or versions of a server: defect, defect@canary, defect:3.
    """
    packages = read(before, server), read(after, server)
    found, answers = diff(*packages), None
    if logits:
        model = load_backbone(backbone or packages[0].manifest.backbone.name, weights)
        answers = compare_answers(*packages, model)
    if as_json:
        print_json({**found.plain(), "answers": answers})
    else:
        show_diff(found, answers)


@click.command(
    epilog=options.examples(
        "lensmount adapters fetch hf://owner/defect runs/defect",
        "lensmount adapters fetch s3://bucket/defect runs/defect",
    )
)
@click.argument("address")
@click.argument("path", type=PACKAGE)
@options.as_json
def fetch(address: str, path: Path, as_json: bool) -> None:
    """Get a package from the Hub or an object store into PATH, a new folder.

    It is read and checked in itself; `adapters check` and `register` do the rest.
    """
    package = fetch_package(address, path)
    told = {"task": package.manifest.task, "content_hash": package.content_hash, "path": str(path)}
    if as_json:
        print_json(told)
    else:
        click.echo(f"{told['task']} {package.content_hash[:12]} is in {path}\nNext: lensmount register {path}")


def read(reference: str, server: str) -> Package:
    """The package of a folder, a .zip file or, where there is nothing of that name, of a version of a server.

    Raises LensmountError.
    """
    if Path(reference).exists() or "/" in reference.partition(":")[0]:
        with unpacked(Path(reference)) as folder:
            return read_package(folder)
    with tempfile.TemporaryDirectory(prefix="lensmount.") as scratch, Client(server) as client:
        client.export(reference, Path(scratch) / "package")
        return read_package(Path(scratch) / "package")


def _error(error: LensmountError | None) -> dict[str, str] | None:
    if error is None:
        return None
    told = {"field": error.field, "value": error.value, "fix": error.fix}
    return {"error": type(error).__name__, "message": error.message, **told}
