"""`lensmount adapters history` and `watch`: the registry's journal."""

from __future__ import annotations

from itertools import islice

import click
from rich.text import Text

from lensmount.cli import options
from lensmount.cli.output import console, print_json, table, time
from lensmount.client import Client
from lensmount.results import AdapterEvent, AdapterEventKind

_COLUMNS = ("seq", "when", "what", "adapter", "who", "from", "detail")
_STYLES = {
    AdapterEventKind.REFUSED: "red",
    AdapterEventKind.DELETED: "yellow",
    AdapterEventKind.COLLECTED: "yellow",
    AdapterEventKind.ALIAS_DELETED: "yellow",
    AdapterEventKind.ROLLED_BACK: "magenta",
    AdapterEventKind.ALIAS_SET: "green",
    AdapterEventKind.FIRST_ANSWER: "bold green",
}


@click.command(
    epilog=options.examples("lensmount adapters history defect", "lensmount adapters history defect --alias live")
)
@click.argument("task", default="")
@click.option("--alias", default="", help="Only what happened to this alias.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@options.server
@options.as_json
def history(task: str, alias: str, limit: int, server: str, as_json: bool) -> None:
    """Show who did what to the adapters, of TASK or of all, newest first: refusals and their reasons too."""
    with Client(server) as client:
        found = list(islice(client.events(task, alias), limit))
    if as_json:
        print_json(found)
    else:
        console().print(table(*_COLUMNS, rows=map(_row, found)))


@click.command(epilog=options.examples("lensmount adapters watch", "lensmount adapters watch --task defect --json"))
@options.some_tasks
@click.option("--after", type=click.IntRange(min=0), help="Begin behind the event with this number; 0: with the first.")
@options.server
@options.as_json
def watch(tasks: tuple[str, ...], after: int | None, server: str, as_json: bool) -> None:
    """Follow registrations, promotions, first answers, rollbacks and deletions until Ctrl-C."""
    with Client(server) as client, client.watch_adapters(tasks, after) as events:
        for event in events:
            if as_json:
                print_json(event)
            else:
                console().print(_line(event))


def _row(event: AdapterEvent) -> tuple[object, ...]:
    who = event.actor or "-", event.origin or "-"
    return event.sequence or "", time(event.time_ns), _what(event), _adapter(event), *who, event.detail


def _line(event: AdapterEvent) -> Text:
    who = f" by {event.actor}" if event.actor else ""
    detail = f": {event.detail}" if event.detail else ""
    return Text.assemble(f"{time(event.time_ns)}  ", _what(event), f"  {_adapter(event)}{who}{detail}")


def _what(event: AdapterEvent) -> Text:
    return Text(event.kind.replace("_", " "), style=_STYLES.get(event.kind, ""))


def _adapter(event: AdapterEvent) -> str:
    version = f":{event.adapter.version}" if event.adapter.version else ""
    name = f"{event.adapter.task}{version}"
    if not event.alias:
        return name
    before = f" (was {event.previous_version})" if event.previous_version else ""
    return f"{event.adapter.task}@{event.alias} -> {event.adapter.version or 'nothing'}{before}"
