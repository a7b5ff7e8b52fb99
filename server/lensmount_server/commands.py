"""`lensmount serve` and `lensmount doctor`."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lensmount_adapters.backbones import Backbone
from lensmount_server.app import serve as run_server
from lensmount_server.doctor import examine
from lensmount_server.settings import Reading
from lensmount_server.settings.options import HINT, server_options

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

as_json_lines = click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object a line.")


@click.command(epilog=HINT)
@server_options
@as_json_lines
def serve(reading: Reading, as_json: bool) -> None:
    """Run the server until Ctrl-C.

    One backbone is loaded once; adapters are registered and swapped while it runs:

    \b
        lensmount serve
        lensmount register runs/defect --alias live
        lensmount stream line.mp4 --task defect
    """  # noqa: D301 - click wants the control character
    config = reading.config()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    asyncio.run(run_server(config, _announce_json if as_json else _announce))


@click.command(epilog=HINT)
@server_options
@as_json_lines
def doctor(reading: Reading, as_json: bool) -> None:
    """Check that this machine can serve: versions, device, weights, FFmpeg, folders, port.

    Exits with 1 when something must be mended first, and says how.
    """
    findings = list(examine(reading.config()))
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
