"""The command line: a thin shell over the client, and the commands of the installed extras."""

from __future__ import annotations

import click

from lensmount.cli import care, events, options
from lensmount.cli.adapters import adapters, promote, register, rollback
from lensmount.cli.group import CommandGroup
from lensmount.cli.infer import infer
from lensmount.cli.info import info
from lensmount.cli.sources import sources
from lensmount.cli.stream import stream
from lensmount.cli.watch import watch


@click.group(
    cls=CommandGroup,
    epilog=options.examples(
        "lensmount demo                        see it work",
        "lensmount serve                       start a server on this machine",
        "lensmount stream clip.mp4 --task defect",
    ),
)
@click.version_option(package_name="lensmount")
def cli() -> None:
    """Multi-task inference on live video: one frozen backbone, many small adapters."""


for command in (infer, stream, register, promote, rollback, adapters, sources, watch, info):
    cli.add_command(command)
for command in (register, promote, rollback, care.tag, care.pin, care.unpin, care.delete, care.collect, care.export):
    adapters.add_command(command)
for command in (events.history, events.watch):
    adapters.add_command(command)


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="lensmount")
