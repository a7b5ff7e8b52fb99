"""`lensmount register`, `promote`, `rollback`, and `adapters list` and `show`."""

from __future__ import annotations

from itertools import islice
from typing import TypedDict

import click

from lensmount.cli import options
from lensmount.cli.group import ENTRY_POINTS, CommandGroup
from lensmount.cli.output import console, facts, print_json, table, time, transfer
from lensmount.client import Client
from lensmount.results import Adapter, AliasChange, Registration, Residency

_KEPT = {
    Residency.UNSPECIFIED: "not told",
    Residency.HOT: "hot",
    Residency.HOST_CACHED: "on the host",
    Residency.COLD: "on disk",
    Residency.LOADING: "loading",
    Residency.QUARANTINED: "in quarantine",
}


class Wanted(TypedDict):
    """What is asked for with a package; see `Client.register`."""

    alias: str | None
    tags: dict[str, str]
    validate_only: bool


@click.command(
    epilog=options.examples(
        "lensmount register runs/defect --alias live",
        "lensmount register runs/defect --tag site=hall-3 --tag approved-by=mia",
        "lensmount register runs/defect --dry-run",
    )
)
@click.argument("path")
@click.option("--alias", help="Point this alias at the version once every check passed, for example live.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="Note this about the version; repeatable.")
@click.option("--dry-run", is_flag=True, help="Have every check run, and keep nothing.")
@options.server
@options.as_json
def register(path: str, alias: str | None, tags: tuple[str, ...], dry_run: bool, server: str, as_json: bool) -> None:
    """Upload an adapter package; the server checks every part of it.

    PATH is the folder that `lensmount train` wrote, or a ZIP file of it. An upload that breaks off goes on where it
    ended when the command is given again.
    """
    wanted: Wanted = {"alias": alias, "tags": options.pairs("tag", tags), "validate_only": dry_run}
    with Client(server) as client:
        if as_json:
            print_json(client.register(path, **wanted))
        else:
            _print_registration(_register(client, path, wanted), dry_run=dry_run)


@click.command(epilog=options.examples("lensmount promote defect 2", "lensmount promote defect 3 --alias canary"))
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--alias", default="live", show_default=True, help="The alias to point at it.")
@click.option("--expected-version", type=click.IntRange(min=1), help="Only if the alias points at this one now.")
@options.etag
@options.wait
@options.server
@options.as_json
def promote(
    task: str,
    version: int,
    alias: str,
    expected_version: int | None,
    etag: str,
    wait: float,
    server: str,
    as_json: bool,
) -> None:
    """Point an alias of a task at a version, between two batches.

    Where streams follow the alias, the answer says when the first of their frames was answered by the new version.
    """
    with Client(server) as client:
        change = client.set_alias(task, version, alias, expected_version, etag, wait)
    _print_change(change, as_json=as_json)


@click.command(
    epilog=options.examples(
        "lensmount rollback defect", "lensmount rollback defect --to 3", "lensmount adapters history defect"
    )
)
@click.argument("task")
@click.option("--to", "version", type=click.IntRange(min=1), help="The version, one that the alias pointed at.")
@click.option("--alias", default="live", show_default=True, help="The alias to point back.")
@options.etag
@options.wait
@options.server
@options.as_json
def rollback(task: str, version: int | None, alias: str, etag: str, wait: float, server: str, as_json: bool) -> None:
    """Point an alias back at the version before.

    Given again, it goes back further.
    """
    with Client(server) as client:
        change = client.rollback(task, alias, version, etag, wait)
    _print_change(change, as_json=as_json)


@click.group(cls=CommandGroup, entry_group=f"{ENTRY_POINTS}.adapters")
def adapters() -> None:
    """Register, promote, roll back and look after adapter versions."""


@adapters.command(
    "list",
    epilog=options.examples(
        "lensmount adapters list --task defect",
        "lensmount adapters list --search hall-3",
        "lensmount adapters list --alias live --limit 20",
    ),
)
@click.option("--task", default="", help="Only this task.")
@click.option("--alias", default="", help="Only versions that this alias points at.")
@click.option("--tag", "tags", metavar="KEY[=VALUE]", multiple=True, help="Only versions with this tag; repeatable.")
@click.option("--search", "query", default="", help="Only what holds this text in task, strategy, labels or tags.")
@click.option("--pinned", "pinned_only", is_flag=True, help="Only pinned versions.")
@click.option("--limit", type=click.IntRange(min=1), help="The newest so many.")
@options.server
@options.as_json
def list_(
    task: str,
    alias: str,
    tags: tuple[str, ...],
    query: str,
    pinned_only: bool,
    limit: int | None,
    server: str,
    as_json: bool,
) -> None:
    """List versions, newest first."""
    marks = options.pairs("tag", tags, bare=True)
    with Client(server) as client:
        every = client.adapters(task, alias=alias, tags=marks, query=query, pinned_only=pinned_only)
        found = list(islice(every, limit))
    if as_json:
        print_json(found)
    else:
        columns = ("task", "version", "aliases", "strategy", "labels", "fork", "MiB", "registered", "kept", "notes")
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


def _register(client: Client, path: str, wanted: Wanted) -> Registration:
    with transfer("upload") as progress:
        return client.register(path, progress=progress, **wanted)


def _print_registration(registration: Registration, *, dry_run: bool) -> None:
    adapter = registration.adapter
    checks = ((check.name, f"{check.duration_ms:.1f}", check.detail) for check in registration.checks)
    console().print(table("check", "ms", "detail", rows=checks))
    if dry_run:
        click.echo(f"{adapter.task} would be registered; nothing was kept")
        return
    what = "was registered before as" if registration.already_registered else "registered as"
    aliases = f" ({', '.join(adapter.aliases)})" if adapter.aliases else ""
    click.echo(f"{what} {adapter.task}:{adapter.version}{aliases}")
    if "live" not in adapter.aliases:
        click.echo(f"Next: lensmount promote {adapter.task} {adapter.version}")


def _print_change(change: AliasChange, *, as_json: bool) -> None:
    if as_json:
        print_json(change)
        return
    before = f"was {change.previous_version}" if change.previous_version else "new"
    first = f", first frame answered after {change.first_answer_ms:.1f} ms" if change.first_answer_ms else ""
    now = f"{change.task}@{change.alias} is version {change.version} ({before})"
    click.echo(f"{now}, switched after {change.switch_ms:.1f} ms{first}")


def _row(adapter: Adapter) -> tuple[object, ...]:
    aliases, labels = ", ".join(adapter.aliases), ", ".join(adapter.labels)
    size, when = f"{adapter.size_bytes / 2**20:.1f}", time(adapter.registered_time_ns)
    own = adapter.task, adapter.version, aliases, adapter.strategy, labels, adapter.fork
    return *own, size, when, _kept(adapter), _notes(adapter)


def _facts(adapter: Adapter) -> dict[str, object]:
    return {
        "task": f"{adapter.task}:{adapter.version}",
        "aliases": ", ".join(adapter.aliases) or "none",
        "labels": ", ".join(adapter.labels) + (" (any number of them)" if adapter.multi_label else ""),
        "strategy": f"{adapter.strategy}, fork {adapter.fork}",
        "backbone": f"{adapter.backbone} {adapter.backbone_fingerprint}",
        "content": f"{adapter.content_hash}, {adapter.size_bytes:,} bytes",
        "registered": _registered(adapter),
        **{f"{each.alias} since": f"{time(each.set_time_ns)}, etag {each.etag}" for each in adapter.alias_states},
        "notes": _notes(adapter) or "none",
        "kept": f"{_kept(adapter)}: {adapter.residency_reason}" if adapter.residency_reason else _kept(adapter),
        **{f"test {name}": f"{value:.4g}" for name, value in sorted(adapter.metrics.items())},
    }


def _kept(adapter: Adapter) -> str:
    return _KEPT[adapter.residency]


def _registered(adapter: Adapter) -> str:
    by, where = f" by {adapter.registered_by}" if adapter.registered_by else "", adapter.origin
    return f"{time(adapter.registered_time_ns)}{by}{f' from {where}' if where else ''}"


def _notes(adapter: Adapter) -> str:
    pin = [] if adapter.pin_reason is None else [f"pinned{f': {adapter.pin_reason}' if adapter.pin_reason else ''}"]
    return ", ".join([*pin, *(f"{key}={value}" if value else key for key, value in sorted(adapter.tags.items()))])
