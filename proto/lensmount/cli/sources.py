"""`lensmount sources`: videos that the server pulls."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.table import Table

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json, table
from lensmount.client import Client
from lensmount.results import DropPolicy
from lensmount.sources import Source


@click.group()
def sources() -> None:
    """Add, list, show and remove videos that the server pulls."""


@sources.command(
    epilog=options.examples(
        "lensmount sources add line-1 rtsp://camera/stream --task defect --task scene/1fps --deadline-ms 200",
        "lensmount sources add test /data/clip.mp4 --task defect --loop",
    )
)
@click.argument("name")
@click.argument("url")
@options.stream_tasks
@click.option("--loop", is_flag=True, help="Start a file again at its end.")
@options.drop_policy(DropPolicy.NEWEST)
@options.deadline
@options.priority
@options.server
@options.as_json
def add(  # one parameter an option
    name: str,
    url: str,
    tasks: tuple[str, ...],
    loop: bool,
    drop_policy: str,
    deadline_ms: int,
    priority: int,
    server: str,
    as_json: bool,
) -> None:
    """Have the server pull a camera, or a video file on its own disk."""
    with Client(server) as client:
        source = client.add_source(
            name, url, tasks, loop=loop, drop_policy=drop_policy, deadline_ms=deadline_ms, priority=priority
        )
    _show(source, as_json)


@sources.command("list", epilog=options.examples("lensmount sources list"))
@options.server
@options.as_json
def list_(server: str, as_json: bool) -> None:
    """List all sources."""
    with Client(server) as client:
        found = client.sources()
    if as_json:
        print_json(found)
    else:
        console().print(_table(found))


@sources.command(epilog=options.examples("lensmount sources show line-1"))
@click.argument("name")
@options.server
@options.as_json
def show(name: str, server: str, as_json: bool) -> None:
    """Show one source with its state and account."""
    with Client(server) as client:
        _show(client.source(name), as_json)


@sources.command(epilog=options.examples("lensmount sources remove line-1"))
@click.argument("name")
@options.server
@options.as_json
def remove(name: str, server: str, as_json: bool) -> None:
    """Stop pulling a source and forget it."""
    with Client(server) as client:
        client.remove_source(name)
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"{name} removed")


def _show(source: Source, as_json: bool) -> None:
    if as_json:
        print_json(source)
    else:
        console().print(facts(_facts(source)))


def _table(found: Iterable[Source]) -> Table:
    columns = ("name", "state", "tasks", "fps", "answered", "dropped", "url")
    return table(*columns, rows=(_row(source) for source in found))


def _row(source: Source) -> tuple[object, ...]:
    tasks = ", ".join(map(str, source.tasks))
    counts = (source.answered, source.dropped.total)
    return source.name, source.state, tasks, f"{source.fps:.1f}", *counts, source.url


def _facts(source: Source) -> dict[str, object]:
    return {
        "name": source.name,
        "url": source.url,
        "state": f"{source.state}: {source.reason}" if source.reason else source.state,
        "tasks": ", ".join(map(str, source.tasks)),
        "drop policy": f"{source.drop_policy}{', looped' if source.loop else ''}",
        "terms": f"{_deadline(source.deadline_ms)}, priority {source.priority}",
        "picture": f"{source.width} x {source.height}, {source.fps:.1f} frames a second",
        "frames": f"{source.decoded} decoded, {source.answered} answered, {source.dropped.total} dropped",
    }


def _deadline(deadline_ms: int) -> str:
    return f"within {deadline_ms} ms" if deadline_ms else "no deadline"
