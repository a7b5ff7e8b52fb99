"""The options of `lensmount sources add` and `update`: what is not given is not sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lensmount.results import DropPolicy
from lensmount.sources import WHOLE, DecodeEffort, Pace, Region, Transport

Command = TypeVar("Command", bound=Callable[..., Any])


def _region(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Region | None:
    if value is None or value == "all":
        return None if value is None else WHOLE
    try:
        left, top, width, height = map(float, value.split(","))
    except ValueError:
        message = "four shares of the picture expected, as in 0,0.5,1,0.5 for its lower half, or all"
        raise click.BadParameter(message) from None
    return Region(left, top, width, height)


def _turn(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else int(value)


_OPTIONS = (
    click.option("--loop/--no-loop", default=None, help="Start a file again at its end.  [default: no]"),
    click.option(
        "--drop-policy",
        type=click.Choice([each.value for each in DropPolicy]),
        help="Always the newest frame, or answer every one and read no faster.  [default: newest; every_frame with "
        "--pace fast]",
    ),
    click.option(
        "--deadline-ms",
        metavar="MS",
        type=int,
        help="Drop a frame that can not be answered so long after its capture.  [default: 0, none]",
    ),
    click.option(
        "--priority", type=int, help="-10 to 10: who goes first when there is not enough for all.  [default: 0]"
    ),
    click.option(
        "--transport",
        type=click.Choice([each.value for each in Transport]),
        help="How RTSP packets travel.  [default: tcp]",
    ),
    click.option(
        "--pace",
        type=click.Choice([each.value for each in Pace]),
        help="Read a file at its own speed, or as fast as it is answered.  [default: realtime]",
    ),
    click.option(
        "--decode-effort",
        type=click.Choice([each.value for each in DecodeEffort]),
        help="Pictures to decode: what the tasks' rates need, all, those that others refer to, or key pictures, about "
        "one a second.  [default: auto]",
    ),
    click.option(
        "--rotate",
        "rotation",
        type=click.Choice(["0", "90", "180", "270"]),
        callback=_turn,
        help="Turn the picture clockwise, for a camera that hangs on its side.  [default: 0]",
    ),
    click.option(
        "--region",
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        callback=_region,
        help="The part that tasks look at, in shares of the turned picture: 0,0.5,1,0.5 is the lower half.  "
        "[default: all]",
    ),
    click.option(
        "--queue-size",
        metavar="FRAMES",
        type=int,
        help="Frames that may wait with --drop-policy every_frame, at most 256.  [default: 4]",
    ),
    click.option(
        "--gate",
        metavar="SHARE",
        type=float,
        help="Repeat the last answer until this share of the picture changes: 0.01 is a good start, 0 is no gate.  "
        "[default: 0]",
    ),
    click.option(
        "--gate-refresh-ms", metavar="MS", type=int, help="Repeat an answer for no longer than this.  [default: 5000]"
    ),
    click.option(
        "--reconnect-first-ms",
        metavar="MS",
        type=int,
        help="The first wait before a lost camera is tried again; it doubles.  [default: 250]",
    ),
    click.option("--reconnect-longest-ms", metavar="MS", type=int, help="The longest such wait.  [default: 2000]"),
)


def source_options(command: Command) -> Command:
    """How a source is read and answered; each is None where it is not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were typed."""
    return {name: value for name, value in options.items() if value is not None}
