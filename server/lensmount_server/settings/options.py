"""The settings as options of a command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from lensmount_server.settings.kinds import click_type, repeated, written
from lensmount_server.settings.layers import CONFIG_VARIABLE, FIELDS, flag
from lensmount_server.settings.reading import read

Command = Callable[..., Any]

HINT = (
    "Every option that describes the server may also be set in the environment (--hot-adapters: "
    "LENSMOUNT_HOT_ADAPTERS; lists with commas) or in the file (hot_adapters). A flag goes before the environment, "
    "the environment before the file. `lensmount config show` tells what holds and why."
)


def server_options(command: Command) -> Command:
    """Give a command an option for each setting, and --config; it is called with their Reading first."""
    configured = _with_reading(command)
    for name in reversed([*FIELDS]):
        configured = _option(name, FIELDS[name])(configured)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        help="A TOML file of settings; `lensmount config show --toml` writes one to begin with.",
    )(configured)


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    words = written(field)
    return click.option(
        flag(name),
        name,
        type=click_type(field),
        multiple=repeated(field),
        default=field.get_default(call_default_factory=True),
        show_default=words.default or bool(field.default),
        metavar=words.metavar or None,
        help=field.description,
    )


def _with_reading(command: Command) -> Command:
    """The command with its settings taken together; what was not typed is left to the other sources."""

    @functools.wraps(command)
    def run(*, config_file: Path | None, **given: Any) -> Any:
        source = click.get_current_context().get_parameter_source
        values = {name: given.pop(name) for name in FIELDS}
        typed = {name: value for name, value in values.items() if source(name) is ParameterSource.COMMANDLINE}
        return command(read(typed, config_file), **given)

    return run
