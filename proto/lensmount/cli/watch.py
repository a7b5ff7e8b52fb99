"""`lensmount watch`."""

from __future__ import annotations

import click

from lensmount.cli import options
from lensmount.cli.live import LiveTable
from lensmount.cli.output import print_json
from lensmount.client import Client
from lensmount.results import Result
from lensmount.streams import Watch


@click.command(epilog=options.examples("lensmount watch", "lensmount watch line-1 line-2 --task defect --json"))
@click.argument("sources", nargs=-1, metavar="[SOURCE…]")
@options.some_tasks
@options.server
@options.as_json
def watch(sources: tuple[str, ...], tasks: tuple[str, ...], server: str, as_json: bool) -> None:
    """Follow the results of sources; of all when none is named.

    It ends with Ctrl-C.

    With --json: one line a result ("kind": "result") or change of a source ("kind": "source").
    """
    with Client(server) as client, client.watch(sources, tasks) as items:
        if as_json:
            _print_lines(items)
        else:
            with LiveTable() as live:
                for item in items:
                    live.add(item)
    if items.lost:
        click.echo(f"{items.lost} results were lost: this reader was too slow.", err=True)


def _print_lines(items: Watch) -> None:
    for item in items:
        print_json(item, kind="result" if isinstance(item, Result) else "source")
