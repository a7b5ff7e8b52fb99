"""How data are read, as options of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--format",
        metavar="NAME",
        help="imagefolder, table, coco, arrow, label-studio or clips [found out].",
    ),
    click.option(
        "--group-by",
        metavar="RULE",
        help="What never parts: folder, none, or a regular expression on names [as the data say].",
    ),
    click.option("--every", type=float, metavar="SECONDS", help="clips: a frame every so often [1]."),
    click.option("--margin", type=float, metavar="SHARE", help="Boxes: so much more on each side [0]."),
)


def reading(command: Command) -> Command:
    """Adds `format`, `group_by`, `every` and `margin`, each None unless given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
