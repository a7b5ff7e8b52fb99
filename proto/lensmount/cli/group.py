"""A group of commands: the client's own, and those that other packages bring by entry point.

`lensmount.commands` are the commands of `lensmount` itself, `lensmount.commands.NAME` those of its group NAME.

Commands of other packages are imported when they run, never to list them: the help of a
light installation names every command at once, and running one whose extra is missing
says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from lensmount.errors import InvalidInputError, LensmountError, MissingExtraError, NotFoundError, TooLargeError

ENTRY_POINTS = "lensmount.commands"

_OWN_PACKAGES = ("lensmount", "lensmount_adapters", "lensmount_server", "lensmount_training")
_INTERRUPTED = 130


@dataclass(frozen=True)
class Listed:
    """A command of an extra: its line in the help, and the extra that it needs."""

    help: str
    extra: str


# By the command as it is typed.
LISTED = {
    "adapters check": Listed("Take a package through the server's whole gate, without a server.", "server"),
    "adapters diff": Listed("Show what changed between two packages.", "server"),
    "adapters fetch": Listed("Get a package from the Hub or an object store.", "server"),
    "adapters import": Listed("Make a package of a PEFT adapter or a checkpoint of the ecosystem.", "training"),
    "audit": Listed("Look at a data set before anything is trained on it.", "training"),
    "bench": Listed("Measure what this machine holds, beside what people run today.", "bench"),
    "bench labels": Listed("How many labels are worth it, and with which strategy.", "training"),
    "bench train": Listed("Training beside what people write today.", "training"),
    "config": Listed("Check and show what a server would run with.", "server"),
    "demo": Listed("Train two tasks, stream a video, swap one while it plays.", "training"),
    "doctor": Listed("Check this machine for what a server needs.", "server"),
    "evaluate": Listed("Judge a package on pictures, without a server.", "training"),
    "export": Listed("Write what other inference servers run.", "server"),
    "export onnx": Listed("Write one task as a plain ONNX model, for a Triton without lensmount.", "triton"),
    "export triton": Listed("Write a model repository with which NVIDIA Triton hosts the engine.", "server"),
    "serve": Listed("Run the server.", "server"),
    "train": Listed("Train an adapter from a folder of pictures.", "training"),
}


class CommandGroup(click.Group):
    """A click group with lazy commands, and with exit codes for the exception tree.

    2: a value that can not work (as click's own usage errors); 3: not found; 4: any other
    LensmountError; 130: Ctrl-C. `entry_group` is the group of entry points that it lists beside its own.
    """

    def __init__(self, *arguments: Any, entry_group: str = ENTRY_POINTS, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entry_group = entry_group

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted; nothing is imported."""
        return sorted({*super().list_commands(ctx), *self._entries()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; MissingExtraError when its extra is not installed."""
        own = super().get_command(ctx, cmd_name)
        entry = self._entries().get(cmd_name)
        if own or entry is None:
            return own
        if ctx.resilient_parsing:  # shell completion: names and help lines are enough
            return click.Command(cmd_name, help=_help_line(entry))
        return _load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command, without importing those of other packages."""
        entries = self._entries()
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._line(ctx, name, entries.get(name))) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> object:
        """Run; an error of ours becomes one red line and its exit code."""
        try:
            return super().invoke(ctx)
        except LensmountError as error:
            click.secho(f"Error: {error}", fg="red", err=True)
            ctx.exit(_exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)

    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.entry_group)}

    def _line(self, ctx: click.Context, name: str, entry: EntryPoint | None) -> str:
        own = super().get_command(ctx, name)
        if own is not None:
            return own.get_short_help_str(80)
        return _help_line(entry) if entry else ""


def _exit_code(error: LensmountError) -> int:
    if isinstance(error, InvalidInputError | TooLargeError):
        return 2
    return 3 if isinstance(error, NotFoundError) else 4


def _typed(entry: EntryPoint) -> str:
    """The command as it is typed after `lensmount`: with the groups that it is in."""
    groups = entry.group.removeprefix(ENTRY_POINTS).split(".")[1:]
    return " ".join((*groups, entry.name))


def _help_line(entry: EntryPoint) -> str:
    if (name := _typed(entry)) in LISTED:
        return LISTED[name].help
    return f"From the package {entry.dist.name}." if entry.dist else f"From {entry.value}."


def _load(entry: EntryPoint) -> click.Command:
    try:
        command: click.Command = entry.load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OWN_PACKAGES:
            raise
        raise _missing(_typed(entry), missing) from error
    return command


def _missing(name: str, module: str) -> MissingExtraError:
    if name not in LISTED:
        return MissingExtraError(f"{name} needs the module '{module}'", fix="install it beside lensmount")
    extra = LISTED[name].extra
    return MissingExtraError(f"{name} needs the extra '{extra}'", fix=f"pip install 'lensmount[{extra}]'")
