"""`lensmount adapters tag`, `pin`, `unpin`, `delete`, `collect` and `export`."""

from __future__ import annotations

import click

from lensmount.cli import options
from lensmount.cli.output import console, print_json, table, transfer
from lensmount.client import Client
from lensmount.errors import InvalidInputError
from lensmount.results import Collected, Export
from lensmount.tasks import TaskRef


@click.command(
    epilog=options.examples(
        "lensmount adapters tag defect:3 site=hall-3 approved-by=mia", "lensmount adapters tag defect:3 --remove site"
    )
)
@click.argument("adapter")
@click.argument("tags", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--remove", metavar="KEY", multiple=True, help="Take this tag away; repeatable.")
@options.server
@options.as_json
def tag(adapter: str, tags: tuple[str, ...], remove: tuple[str, ...], server: str, as_json: bool) -> None:
    """Note something about a version: for people, and for `adapters list --tag` and `--search`."""
    put = options.pairs("tag", tags)
    if not put and not remove:
        raise click.UsageError("nothing to change: give KEY=VALUE, or --remove KEY")
    with Client(server) as client:
        changed = client.tag(adapter, put, remove)
    if as_json:
        print_json(changed)
    else:
        noted = ", ".join(f"{key}={value}" for key, value in sorted(changed.tags.items()))
        click.echo(f"{changed.task}:{changed.version} has {noted or 'no tags'}")


@click.command(epilog=options.examples('lensmount adapters pin defect:3 --reason "audit of May"'))
@click.argument("adapter")
@click.option("--reason", default="", help="Why, for whoever wants to delete it.")
@options.server
@options.as_json
def pin(adapter: str, reason: str, server: str, as_json: bool) -> None:
    """Keep a version from being deleted or collected."""
    with Client(server) as client:
        changed = client.pin(adapter, reason)
    if as_json:
        print_json(changed)
    else:
        click.echo(f"{changed.task}:{changed.version} is pinned; lensmount adapters unpin {adapter} takes that away")


@click.command(epilog=options.examples("lensmount adapters unpin defect:3"))
@click.argument("adapter")
@options.server
@options.as_json
def unpin(adapter: str, server: str, as_json: bool) -> None:
    """Take a version's pin away."""
    with Client(server) as client:
        changed = client.unpin(adapter)
    if as_json:
        print_json(changed)
    else:
        click.echo(f"{changed.task}:{changed.version} is not pinned")


@click.command(
    epilog=options.examples(
        "lensmount adapters delete defect:3",
        "lensmount adapters delete defect@canary    the alias; its version stays",
        "lensmount adapters delete defect --yes     the task, with all of its versions",
    )
)
@click.argument("adapter")
@click.option("--yes", is_flag=True, help="Delete a whole task without a question.")
@options.server
@options.as_json
def delete(adapter: str, yes: bool, server: str, as_json: bool) -> None:
    """Delete a version, an alias or a task. Streams that ask for it end and are told why."""
    ref = TaskRef.parse(adapter)
    if not ref.version and "@" not in adapter and not yes:
        if as_json:
            raise InvalidInputError("this deletes a whole task", field="adapter", value=adapter, fix="add --yes")
        click.confirm(f"Delete the task {ref.task}, its aliases and all of its versions?", abort=True)
    with Client(server) as client:
        gone = _delete(client, ref, whole="@" not in adapter)
    if as_json:
        print_json({"deleted": gone})
    else:
        click.echo(f"deleted {gone}")


@click.command(epilog=options.examples("lensmount adapters collect --keep 10 --dry-run"))
@click.option("--keep", type=click.IntRange(min=1), required=True, help="So many of the newest of each task stay.")
@click.option("--task", default="", help="Only this task.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@options.server
@options.as_json
def collect(keep: int, task: str, dry_run: bool, server: str, as_json: bool) -> None:
    """Delete old versions that nothing needs.

    What an alias points at, would be rolled back to, is pinned, or is asked for by a stream stays.
    """
    with Client(server) as client:
        found = client.collect(keep, task, dry_run=dry_run)
    if as_json:
        print_json(found, dry_run=dry_run)
    else:
        _print_collected(found, dry_run=dry_run)


@click.command(
    epilog=options.examples(
        "lensmount adapters export defect exported/defect", "lensmount adapters export defect:3 defect-3.zip"
    )
)
@click.argument("adapter")
@click.argument("path")
@options.server
@options.as_json
def export(adapter: str, path: str, server: str, as_json: bool) -> None:
    """Write a version's package to PATH: a new folder, or a new .zip file."""
    with Client(server) as client:
        if as_json:
            print_json(client.export(adapter, path))
        else:
            done = _export(client, adapter, path)
            click.echo(f"{done.adapter.task}:{done.adapter.version} is in {done.path} ({done.size_bytes:,} bytes)")


def _delete(client: Client, ref: TaskRef, *, whole: bool) -> str:
    if ref.version:
        client.delete_adapter(ref.task, ref.version)
        return f"{ref.task}:{ref.version}"
    if whole:
        return f"{ref.task} and its {client.delete_task(ref.task)} versions"
    client.delete_alias(ref.task, ref.alias)
    return f"{ref.task}@{ref.alias}"


def _export(client: Client, adapter: str, path: str) -> Export:
    with transfer("export") as progress:
        return client.export(adapter, path, progress)


def _print_collected(found: Collected, *, dry_run: bool) -> None:
    console().print(table("task", "version", rows=((each.task, each.version) for each in found.removed)))
    what = "would be deleted" if dry_run else "deleted"
    click.echo(f"{len(found.removed):,} versions {what}, {found.size_bytes / 2**20:,.1f} MiB")
