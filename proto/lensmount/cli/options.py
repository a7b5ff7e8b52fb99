"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

import click

from lensmount.channel import DEFAULT_ADDRESS
from lensmount.errors import InvalidInputError
from lensmount.results import DropPolicy

Command = TypeVar("Command", bound=Callable[..., Any])

server = click.option(
    "--server",
    metavar="ADDRESS",
    default=DEFAULT_ADDRESS,
    envvar="LENSMOUNT_SERVER",
    show_default=True,
    show_envvar=True,
    help="The server's address.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="For machines: JSON, one document a line.")

tasks = click.option(
    "--task",
    "-t",
    "tasks",
    metavar="TASK",
    multiple=True,
    required=True,
    help="defect, defect@canary (an alias) or defect:3 (a version); repeat it for more.",
)

stream_tasks = click.option(
    "--task",
    "-t",
    "tasks",
    metavar="TASK",
    multiple=True,
    required=True,
    help="defect, defect@canary (an alias) or defect:3 (a version); defect/5fps looks at no more than "
    "5 frames a second; repeat it for more.",
)

deadline = click.option(
    "--deadline-ms",
    metavar="MS",
    type=int,
    default=0,
    help="Drop a frame that can not be answered so long after its capture.",
)

priority = click.option(
    "--priority", type=int, default=0, show_default=True, help="-10 to 10: who goes first when there is not enough."
)

new_tasks = click.option(
    "--task",
    "-t",
    "tasks",
    metavar="TASK",
    multiple=True,
    help="The tasks from now on, all of them, each as with `add`; repeatable.",
)

some_tasks = click.option("--task", "-t", "tasks", metavar="TASK", multiple=True, help="Only this task; repeatable.")


etag = click.option(
    "--etag", default="", help="Only if nobody changed the alias since: its etag, as `adapters show` says it."
)

wait = click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    default=5.0,
    show_default=True,
    help="Where streams follow the alias: wait at most so long for the first frame that it answers.",
)


def pairs(option: str, texts: Iterable[str], *, bare: bool = False) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary; a usage error for one that is none, or, with `bare`, KEY alone."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not (equals or bare):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=f"--{option}")
        found[key] = value
    return found


def examples(*lines: str) -> str:
    """The end of a command's help: lines to type, kept as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def drop_policy(default: DropPolicy) -> Callable[[Command], Command]:
    """What happens to frames that come too fast."""
    return click.option(
        "--drop-policy",
        type=click.Choice([str(policy) for policy in DropPolicy]),
        default=str(default),
        show_default=True,
        help="Answer every frame, or always the newest.",
    )


def chosen(text: str, known: Collection[str], field: str) -> tuple[str, ...]:
    """The names of a list with commas, each once; raises InvalidInputError for none, and for one that is not known."""
    names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        fix = f"choose from {', '.join(known)}"
        raise InvalidInputError("no such case", field=field, value=", ".join(unknown), fix=fix)
    return names
