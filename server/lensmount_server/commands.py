"""`lensmount serve` and `lensmount doctor`."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lensmount_adapters.backbones import Backbone
from lensmount_adapters.backbones.default import AUTO
from lensmount_server.app import serve as run_server
from lensmount_server.backends import BACKENDS, TORCH
from lensmount_server.config import (
    DEFAULT_ADDRESS,
    DEFAULT_METRICS,
    ServeConfig,
    default_data_dir,
)
from lensmount_server.doctor import examine
from lensmount_server.engine.settings import DEFAULT_MERGED_MIB, DEVICES, ENGINES, PRECISIONS, EngineSettings
from lensmount_server.hotset import HotLimits
from lensmount_server.policy import parse_policy
from lensmount_server.registry import Places
from lensmount_server.video.policy import AddressPolicy, known_schemes, parse_network
from lensmount_server.workers.pool import PoolOptions

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a server; `serve` runs it, `doctor` looks whether it would run."""
    options = [
        click.option(
            "--address",
            default=DEFAULT_ADDRESS,
            show_default=True,
            envvar="LENSMOUNT_ADDRESS",
            help="Where to listen; port 0: a free one.",
        ),
        click.option(
            "--backbone", default=AUTO, show_default=True, help="timm's name of the shared model; auto: as before."
        ),
        click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Its weights (safetensors)."),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            default=default_data_dir,
            envvar="LENSMOUNT_DATA_DIR",
            show_default="your data folder",
            help="Registry and packages.",
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="cpu",
            show_default=True,
            help="Where to compute; cuda: the first GPU.",
        ),
        click.option(
            "--engine",
            type=click.Choice(ENGINES),
            default="auto",
            show_default=True,
            help="What computes; auto: what is fastest here.",
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="auto",
            show_default=True,
            help="What it computes in; auto: the fastest that is fine enough.",
        ),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Computing threads; 0: one a core."),
        *_backend_options(),
        click.option(
            "--merged-mib",
            type=click.IntRange(0, 1 << 20),
            default=DEFAULT_MERGED_MIB,
            show_default=True,
            help="Memory for merged tails of hot adapters.",
        ),
        click.option(
            "--hot-adapters",
            type=click.IntRange(1),
            default=HotLimits.count,
            show_default=True,
            help="Adapters kept in memory; others are loaded when they are asked for.",
        ),
        *_registry_options(),
        *_source_options(),
        click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object a line."),
    ]
    configured = _with_config(command)
    for option in reversed(options):
        configured = option(configured)
    return configured


def _backend_options() -> list[Callable[..., Any]]:
    """Who computes."""
    return [
        click.option(
            "--backend",
            type=click.Choice(BACKENDS),
            default=TORCH,
            show_default=True,
            help="Where to compute; torch: in this process, triton: by Triton Inference Servers.",
        ),
        click.option(
            "--triton-url",
            "triton_urls",
            multiple=True,
            metavar="HOST:PORT,…",
            help="The gRPC of a Triton that hosts what `lensmount export triton` wrote; may be repeated.",
        ),
    ]


def _registry_options() -> list[Callable[..., Any]]:
    """Where the registry is, and what may get into it."""
    return [
        click.option(
            "--registry",
            default="",
            envvar="LENSMOUNT_REGISTRY",
            metavar="URL",
            help="The registry's database, postgresql://… for example, which several servers may share. "
            "Without it: a file in the data directory.",
        ),
        click.option(
            "--packages",
            default="",
            envvar="LENSMOUNT_PACKAGES",
            metavar="FOLDER|URL",
            help="Where packages are kept: a folder, or s3://… and the like. Without it: in the data directory. "
            "Servers that share a registry share this too.",
        ),
        click.option(
            "--minimum-metric",
            "minima",
            multiple=True,
            metavar="[TASK:]NAME=NUMBER",
            help="Refuse adapters whose own test metrics are below this: macro_f1=0.9, or defect:recall.crack=0.98; "
            "may be repeated.",
        ),
        click.option(
            "--keep-versions",
            type=click.IntRange(0),
            default=0,
            help="After each registration delete versions of the task beyond so many of the newest, if nothing "
            "needs them. 0: keep all.",
        ),
    ]


def _source_options() -> list[Callable[..., Any]]:
    """Where sources may come from."""
    return [
        click.option(
            "--source-scheme",
            "source_schemes",
            multiple=True,
            metavar="SCHEME",
            help=f"A kind of address that sources may have; give it once for each of {', '.join(known_schemes())}. "
            "Without it: all of these.",
        ),
        click.option(
            "--source-folder",
            "source_folders",
            multiple=True,
            type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
            help="A folder whose videos and pictures may be sources, with all below it; may be repeated. "
            "Without it: the current folder.",
        ),
        click.option(
            "--source-network",
            "source_networks",
            multiple=True,
            metavar="CIDR",
            help="A network where the hosts of sources must be, for example 192.168.7.0/24; may be repeated. "
            "Without it: anywhere but link-local addresses. Metadata services of clouds are refused always.",
        ),
        click.option(
            "--decode-workers",
            type=click.IntRange(1, 256),
            default=PoolOptions.most,
            show_default=True,
            help="Processes that decode: each source has its own, up to so many; then they share.",
        ),
        click.option(
            "--metrics-address",
            default="",
            envvar="LENSMOUNT_METRICS_ADDRESS",
            metavar="HOST:PORT",
            help=f"Where Prometheus may read /metrics, {DEFAULT_METRICS} for example. Without it: nowhere.",
        ),
    ]


def _policy(schemes: tuple[str, ...], folders: tuple[Path, ...], networks: tuple[str, ...]) -> AddressPolicy:
    default = AddressPolicy()
    return AddressPolicy(
        tuple(scheme.lower() for scheme in schemes) or default.schemes,
        folders or default.folders,
        tuple(map(parse_network, networks)),
    )


def _with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its server's options taken together."""

    @functools.wraps(command)
    def run(  # noqa: PLR0913 - one for each option
        *,
        address: str,
        backbone: str,
        weights: Path | None,
        data_dir: Path,
        device: str,
        engine: str,
        precision: str,
        threads: int,
        merged_mib: int,
        hot_adapters: int,
        source_schemes: tuple[str, ...],
        source_folders: tuple[Path, ...],
        source_networks: tuple[str, ...],
        decode_workers: int,
        metrics_address: str,
        registry: str,
        packages: str,
        minima: tuple[str, ...],
        keep_versions: int,
        backend: str,
        triton_urls: tuple[str, ...],
        **own: Any,
    ) -> Any:
        settings = EngineSettings(engine, precision, threads, merged_mib, device)
        addresses = _policy(source_schemes, source_folders, source_networks)
        config = ServeConfig(
            data_dir,
            address,
            backbone,
            weights,
            settings,
            HotLimits(hot_adapters),
            addresses,
            metrics_address,
            decode_workers,
            Places(registry, packages),
            parse_policy(minima),
            keep_versions,
            backend,
            tuple(url.strip() for urls in triton_urls for url in urls.split(",")),
        )
        return command(config, **own)

    return run


@click.command()
@server_options
def serve(config: ServeConfig, as_json: bool) -> None:
    """Run the server until Ctrl-C.

    One backbone is loaded once; adapters are registered and swapped while it runs:

    \b
        lensmount serve
        lensmount register runs/defect --alias live
        lensmount stream line.mp4 --task defect
    """  # noqa: D301 - click wants the control character
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    asyncio.run(run_server(config, _announce_json if as_json else _announce))


@click.command()
@server_options
def doctor(config: ServeConfig, as_json: bool) -> None:
    """Check that this machine can serve: versions, device, weights, FFmpeg, folders, port.

    Exits with 1 when something must be mended first, and says how.
    """
    findings = list(examine(config))
    ready = all(finding.ok for finding in findings)
    if as_json:
        click.echo(json.dumps({"ready": ready, "findings": [asdict(finding) for finding in findings]}))
    else:
        Console().print(_table(findings))
    if not ready:
        raise SystemExit(1)


def _table(findings: list[Any]) -> Table:
    table = Table("", "what", "found", "fix")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
        table.add_row(mark, finding.name, finding.detail, "" if finding.ok else finding.fix)
    return table


def _announce(address: str, backbone: Backbone) -> None:
    console = Console()
    segments = (
        f"{len(backbone.segments)} segments" if backbone.shared else "unknown family: tasks with edits run unshared"
    )
    console.print(f"[bold]lensmount[/] serves [bold]{backbone.name}[/] ({segments}) on [bold]{address}[/]")
    if address.rpartition(":")[0] not in LOOPBACK:
        console.print("[yellow]There is no authentication yet: everybody who reaches this address can use it.[/]")
    console.print("Register an adapter: lensmount register FOLDER --alias live")


def _announce_json(address: str, backbone: Backbone) -> None:
    facts = {"event": "listening", "address": address, "backbone": backbone.name, "fingerprint": backbone.fingerprint}
    click.echo(json.dumps(facts))
