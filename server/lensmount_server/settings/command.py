"""`lensmount config`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import click
from pydantic.fields import FieldInfo

from lensmount.cli import options
from lensmount.cli.output import console, facts, print_json, table
from lensmount_server.settings.hiding import hidden
from lensmount_server.settings.kinds import repeated
from lensmount_server.settings.layers import FIELDS
from lensmount_server.settings.options import HINT, server_options
from lensmount_server.settings.reading import Found, Reading

_TOML_HEAD = """\
# Settings of `lensmount serve`: give this file to it with --config, or name it in LENSMOUNT_CONFIG.
# What stands behind a # is the default, or an example where there is none. A flag and a variable of the
# environment go before this file. `lensmount config check --config FILE` finds what is wrong with it.
"""


@click.group()
def config() -> None:
    """Check and show what a server would run with."""


@config.command(
    epilog=options.examples(
        "lensmount config check --config lensmount.toml",
        "lensmount config check --config lensmount.toml --json",
    )
)
@server_options
@options.as_json
def check(reading: Reading, as_json: bool) -> None:
    """List all that is wrong with flags, environment and file; exits with 2 if anything is.

    Looks at the settings alone: `lensmount doctor` takes the same options and looks at the machine.
    """
    if as_json:
        print_json({"ok": not reading.problems, "problems": reading.problems})
    elif reading.problems:
        for problem in reading.problems:
            click.secho(f"Error: {problem.error()}", fg="red", err=True)
    else:
        given = [each for each in reading.found() if each.source != "default"]
        rows = {each.name: f"{_text(each.value)}   ({each.where})" for each in given}
        out = console()
        out.print(f"All is well: {len(given)} of {len(FIELDS)} settings are given, the others have their defaults.")
        out.print(facts(rows))
    if reading.problems:
        raise SystemExit(2)


@config.command(
    epilog=f"{HINT}\n\n"
    + options.examples(
        "lensmount config show --config lensmount.toml",
        "lensmount config show --toml > lensmount.toml",
    )
)
@server_options
@click.option("--toml", "as_toml", is_flag=True, help="A file with all defaults and examples instead, to begin with.")
@options.as_json
def show(reading: Reading, as_toml: bool, as_json: bool) -> None:
    """Show every setting, its value and where that comes from. Passwords are hidden."""
    if as_toml:
        click.echo("\n".join((_TOML_HEAD, *_toml())))
    elif as_json:
        print_json(
            {each.name: {"value": _plain(each), "source": each.source, "where": each.where} for each in reading.found()}
        )
    else:
        rows = ((each.name, _text(each.value), each.source, each.where) for each in reading.found())
        console().print(table("setting", "value", "source", "where", rows=rows))


def _plain(each: Found) -> object:
    """A value for machines: numbers and lists as such, the rest as text without passwords."""
    if isinstance(each.value, tuple):
        return [hidden(one) for one in each.value]
    return each.value if each.value is None or isinstance(each.value, int) else hidden(each.value)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(hidden, value)) or "-"
    return "-" if value in {None, ""} else hidden(value)


def _toml() -> Iterator[str]:
    for name, field in FIELDS.items():
        yield textwrap.fill(field.description or "", 110, initial_indent="# ", subsequent_indent="# ")
        yield f"# {name} = {json.dumps(_example(field), ensure_ascii=False)}\n"


def _example(field: FieldInfo) -> Any:
    """The default where the help shows one, else an example."""
    is_plain = field.default_factory is None and field.default not in {None, "", ()}
    if is_plain:
        return field.default
    return field.examples if repeated(field) else (field.examples or [field.default])[0]
