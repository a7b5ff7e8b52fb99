"""`lensmount info`."""

from __future__ import annotations

from math import isfinite

import click

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json, table
from lensmount.client import Client
from lensmount.results import BatchCost, EngineCandidate, EngineInfo, ResidencyState, ServerInfo


@click.command(epilog=options.examples("lensmount info", "lensmount info --server camera-hub:50051 --json"))
@options.server
@options.as_json
def info(server: str, as_json: bool) -> None:
    """Show what a server runs on, and how much it has run.

    Tells too why that engine was chosen, what was measured, and how many adapters are in memory.
    """
    with Client(server) as client:
        answer = client.info()
    if as_json:
        print_json(answer)
    else:
        _print(answer)


def _print(answer: ServerInfo) -> None:
    out, engine = console(), answer.engine_info
    out.print(facts(_facts(answer)))
    if engine.candidates:
        columns = ("measured", "precision", "ms for 1 row", "ms for 8 rows", "off fp32", "")
        out.print()
        out.print(table(*columns, rows=map(_candidate, engine.candidates)))
    if engine.costs:
        out.print()
        out.print(table("rows in a batch", "ms", "ms a row", rows=map(_cost, engine.costs)))


def _facts(info: ServerInfo) -> dict[str, object]:
    return {
        "version": info.version,
        "backbone": f"{info.backbone.name} ({len(info.backbone.segments)} segments)",
        "fingerprint": info.backbone.fingerprint,
        "device": f"{info.device}, {info.precision}",
        **_engine(info.engine_info),
        "frames": f"{info.engine.frames:,} in {info.engine.batches:,} batches, {info.engine.rows:,} answers",
        "trunk passes a frame": f"{info.engine.trunk_passes_per_frame:.2f}",
        "adapters": _adapters(info.residency),
        "loads": f"{info.residency.loads:,}, {info.residency.evictions:,} left the hot set",
        "largest message": f"{info.max_message_bytes / 2**20:.0f} MiB",
        "up for": f"{info.uptime_ms / 1000:,.0f} s",
    }


def _engine(engine: EngineInfo) -> dict[str, object]:
    sizes = ", ".join(map(str, engine.batch_sizes))
    return {
        "engine": engine.name or "not told by this server",
        "chosen as": engine.reason or "not told by this server",
        "compiled for": f"batches of {sizes}" if sizes else "no batch size of its own",
    }


def _adapters(state: ResidencyState) -> str:
    hot = f"{state.hot:,} hot ({state.hot_bytes / 2**20:.1f} MiB; {state.pinned:,} followed, {state.leased:,} in use)"
    host = f"{state.host_cached:,} on the host ({state.host_cached_bytes / 2**20:.1f} MiB)"
    return f"{hot}, {host}, {state.quarantined:,} in quarantine"


def _candidate(each: EngineCandidate) -> tuple[object, ...]:
    verdict = "chosen" if each.chosen else "too coarse" if each.too_coarse else ""
    ms = (f"{each.one_row_ms:.1f}", f"{each.eight_rows_ms:.1f}")
    error = f"{each.error:.2%}" if isfinite(each.error) else "no numbers"
    return each.engine, each.precision, *ms, error, verdict


def _cost(each: BatchCost) -> tuple[object, ...]:
    return each.rows, f"{each.batch_ms:.1f}", f"{each.batch_ms / each.rows:.1f}"
