"""`lensmount register`, `promote` and `adapters`."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from lensmount.cli import options
from lensmount.cli.group import ENTRY_POINTS, CommandGroup
from lensmount.cli.output import console, facts, print_json, table
from lensmount.client import Client
from lensmount.results import Adapter, Registration, Residency

_KEPT = {
    Residency.UNSPECIFIED: "not told",
    Residency.HOT: "hot",
    Residency.HOST_CACHED: "on the host",
    Residency.COLD: "on disk",
    Residency.LOADING: "loading",
    Residency.QUARANTINED: "in quarantine",
}


@click.command(epilog=options.examples("lensmount register runs/defect --alias live"))
@click.argument("path")
@click.option("--alias", help="Point this alias at the version once every check passed, for example live.")
@options.server
@options.as_json
def register(path: str, alias: str | None, server: str, as_json: bool) -> None:
    """Upload an adapter package; the server checks every part of it.

    PATH is the folder that `lensmount train` wrote, or a ZIP file of it.
    """
    with Client(server) as client:
        if as_json:
            print_json(client.register(path, alias=alias))
        else:
            _print_registration(_register(client, path, alias))


@click.command(epilog=options.examples("lensmount promote defect 2", "lensmount promote defect 3 --alias canary"))
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--alias", default="live", show_default=True, help="The alias to point at it.")
@click.option("--expected-version", type=click.IntRange(min=1), help="Only if the alias points at this one now.")
@options.server
@options.as_json
def promote(task: str, version: int, alias: str, expected_version: int | None, server: str, as_json: bool) -> None:
    """Point an alias of a task at a version, between two batches."""
    with Client(server) as client:
        change = client.set_alias(task, version, alias, expected_version)
    if as_json:
        print_json(change)
    else:
        before = f"was {change.previous_version}" if change.previous_version else "new"
        click.echo(f"{change.task}@{change.alias} is version {change.version} ({before}), {change.switch_ms:.1f} ms")


@click.group(cls=CommandGroup, entry_group=f"{ENTRY_POINTS}.adapters")
def adapters() -> None:
    """List and show registered adapter versions, and work on packages."""


@adapters.command("list", epilog=options.examples("lensmount adapters list --task defect"))
@click.option("--task", default="", help="Only this task.")
@options.server
@options.as_json
def list_(task: str, server: str, as_json: bool) -> None:
    """List versions, newest first."""
    with Client(server) as client:
        found = list(client.adapters(task))
    if as_json:
        print_json(found)
    else:
        columns = ("task", "version", "aliases", "strategy", "labels", "fork", "MiB", "registered", "kept")
        console().print(table(*columns, rows=(_row(adapter) for adapter in found)))


@adapters.command(
    epilog=options.examples(
        "lensmount adapters show defect", "lensmount adapters show defect@canary", "lensmount adapters show defect:3"
    )
)
@click.argument("task")
@options.server
@options.as_json
def show(task: str, server: str, as_json: bool) -> None:
    """Show the version that TASK stands for."""
    with Client(server) as client:
        adapter = client.adapter(task)
    if as_json:
        print_json(adapter)
    else:
        console().print(facts(_facts(adapter)))


def _register(client: Client, path: str, alias: str | None) -> Registration:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        upload = progress.add_task("upload", total=None)
        return client.register(
            path, alias=alias, progress=lambda sent, total: progress.update(upload, completed=sent, total=total)
        )


def _print_registration(registration: Registration) -> None:
    adapter = registration.adapter
    checks = ((check.name, f"{check.duration_ms:.1f}", check.detail) for check in registration.checks)
    console().print(table("check", "ms", "detail", rows=checks))
    what = "was registered before as" if registration.already_registered else "registered as"
    aliases = f" ({', '.join(adapter.aliases)})" if adapter.aliases else ""
    click.echo(f"{what} {adapter.task}:{adapter.version}{aliases}")
    if "live" not in adapter.aliases:
        click.echo(f"Next: lensmount promote {adapter.task} {adapter.version}")


def _row(adapter: Adapter) -> tuple[object, ...]:
    aliases, labels = ", ".join(adapter.aliases), ", ".join(adapter.labels)
    size, when = f"{adapter.size_bytes / 2**20:.1f}", _time(adapter.registered_time_ns)
    return adapter.task, adapter.version, aliases, adapter.strategy, labels, adapter.fork, size, when, _kept(adapter)


def _facts(adapter: Adapter) -> dict[str, object]:
    return {
        "task": f"{adapter.task}:{adapter.version}",
        "aliases": ", ".join(adapter.aliases) or "none",
        "labels": ", ".join(adapter.labels) + (" (any number of them)" if adapter.multi_label else ""),
        "strategy": f"{adapter.strategy}, fork {adapter.fork}",
        "backbone": f"{adapter.backbone} {adapter.backbone_fingerprint}",
        "content": f"{adapter.content_hash}, {adapter.size_bytes:,} bytes",
        "registered": _time(adapter.registered_time_ns),
        "kept": f"{_kept(adapter)}: {adapter.residency_reason}" if adapter.residency_reason else _kept(adapter),
        **{f"test {name}": f"{value:.4g}" for name, value in sorted(adapter.metrics.items())},
    }


def _kept(adapter: Adapter) -> str:
    return _KEPT[adapter.residency]


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
