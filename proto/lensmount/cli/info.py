"""`lensmount info`."""

from __future__ import annotations

import click

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json
from lensmount.client import Client
from lensmount.results import ServerInfo


@click.command(epilog=options.examples("lensmount info", "lensmount info --server camera-hub:50051 --json"))
@options.server
@options.as_json
def info(server: str, as_json: bool) -> None:
    """Show what a server runs on, and how much it has run."""
    with Client(server) as client:
        answer = client.info()
    if as_json:
        print_json(answer)
    else:
        console().print(facts(_facts(answer)))


def _facts(info: ServerInfo) -> dict[str, object]:
    return {
        "version": info.version,
        "backbone": f"{info.backbone.name} ({len(info.backbone.segments)} segments)",
        "fingerprint": info.backbone.fingerprint,
        "device": f"{info.device}, {info.precision}",
        "frames": f"{info.engine.frames:,} in {info.engine.batches:,} batches, {info.engine.rows:,} answers",
        "trunk passes a frame": f"{info.engine.trunk_passes_per_frame:.2f}",
        "largest message": f"{info.max_message_bytes / 2**20:.0f} MiB",
        "up for": f"{info.uptime_ms / 1000:,.0f} s",
    }
