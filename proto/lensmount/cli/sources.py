"""`lensmount sources`: videos that the server pulls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json
from lensmount.cli.source_options import given, source_options
from lensmount.cli.source_view import source_facts, source_table
from lensmount.client import Client
from lensmount.sources import Source


@click.group()
def sources() -> None:
    """Add, change, list and remove videos that the server pulls."""


@sources.command(
    epilog=options.examples(
        "lensmount sources add line-1 rtsp://camera/stream -t defect -t scene/1fps --deadline-ms 200",
        "lensmount sources add gate-3 rtsp://10.0.0.7/1 -t person --rotate 90 --region 0,0.5,1,0.5 --gate 0.01",
        "lensmount sources add test /data/clip.mp4 -t defect --loop",
        "lensmount sources add archive /data/day.mp4 -t defect --pace fast",
        "lensmount sources add desk usb:0 -t person --paused",
    )
)
@click.argument("name")
@click.argument("url")
@options.stream_tasks
@source_options
@click.option("--paused", is_flag=True, default=None, help="Do not pull it yet; `lensmount sources resume` does.")
@options.server
@options.as_json
def add(name: str, url: str, tasks: tuple[str, ...], server: str, as_json: bool, **told: Any) -> None:
    """Have the server pull a camera, or a recording on its own disk.

    URL is rtsp://…, rtsps://…, http://…, https://…, rtmp://… or srt://…; or on the server's machine the path of
    a video file, folder:PATH of pictures, or usb:0 for a camera.
    """
    with Client(server) as client:
        _show(client.add_source(name, url, tasks, **given(told)), as_json)


@sources.command(
    epilog=options.examples(
        "lensmount sources update line-1 -t defect -t scene/5fps",
        "lensmount sources update line-1 --deadline-ms 100 --gate 0.02",
        "lensmount sources update line-1 --region all --rotate 0",
        "lensmount sources update line-1 --url rtsp://camera/other-stream",
    )
)
@click.argument("name")
@click.option("--url", help="Pull this address from now on.")
@options.new_tasks
@source_options
@options.server
@options.as_json
def update(name: str, tasks: tuple[str, ...], server: str, as_json: bool, **told: Any) -> None:
    """Change a source while it runs; what is not given stays as it is."""
    changes = {"tasks": tasks, **given(told)} if tasks else given(told)
    with Client(server) as client:
        _show(client.update_source(name, **changes), as_json)


@sources.command(epilog=options.examples("lensmount sources pause line-1"))
@click.argument("name")
@options.server
@options.as_json
def pause(name: str, server: str, as_json: bool) -> None:
    """Stop pulling a source, and keep it with its account."""
    _change(lambda client: client.pause_source(name), server, as_json)


@sources.command(epilog=options.examples("lensmount sources resume line-1"))
@click.argument("name")
@options.server
@options.as_json
def resume(name: str, server: str, as_json: bool) -> None:
    """Pull a paused source again."""
    _change(lambda client: client.resume_source(name), server, as_json)


@sources.command("list", epilog=options.examples("lensmount sources list", "lensmount sources list --json"))
@options.server
@options.as_json
def list_(server: str, as_json: bool) -> None:
    """List all sources, and what is wrong with those that do not run."""
    with Client(server) as client:
        found = client.sources()
    if as_json:
        print_json(found)
    elif found:
        console().print(source_table(found))
        for source in found:
            if source.reason:
                console().print(f"{source.name}: {source.reason}", soft_wrap=True)
    else:
        click.echo("No source yet. Next: lensmount sources add NAME rtsp://camera/stream --task TASK")


@sources.command(epilog=options.examples("lensmount sources show line-1"))
@click.argument("name")
@options.server
@options.as_json
def show(name: str, server: str, as_json: bool) -> None:
    """Show all of one source: what it was told, its state and its account."""
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


def _change(call: Callable[[Client], Source], server: str, as_json: bool) -> None:
    with Client(server) as client:
        source = call(client)
    if as_json:
        print_json(source)
    else:
        click.echo(f"{source.name}: {source.state}")


def _show(source: Source, as_json: bool) -> None:
    if as_json:
        print_json(source)
    else:
        console().print(facts(source_facts(source)))
