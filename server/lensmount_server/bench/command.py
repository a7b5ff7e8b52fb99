"""`lensmount bench`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from lensmount.cli.group import CommandGroup
from lensmount_adapters.timing import Rounds
from lensmount_server.bench.capacity import measure as measure_capacity
from lensmount_server.bench.decode import measure as measure_decode
from lensmount_server.bench.engine import TRANSFORMER
from lensmount_server.bench.engine import measure as measure_engine
from lensmount_server.bench.pipeline import measure as measure_pipeline
from lensmount_server.bench.registry import measure as measure_registry
from lensmount_server.bench.swap import measure as measure_swap
from lensmount_server.bench.table import decode_table, engine_table, plot
from lensmount_server.bench.wire.case import CASES as WIRE_CASES
from lensmount_server.bench.wire.tritonserver import VARIABLE as TRITON
from lensmount_server.engine.settings import DEVICES, ENGINES, PRECISIONS, EngineSettings

MERGED_MIB = 4096
COMPILING = "compiling, and looking for the rivals' best form"
MEASURED = [name for name in ENGINES if name != "reference"]


@click.group(cls=CommandGroup, entry_group="lensmount.commands.bench")
def bench() -> None:
    """What does this machine hold? Measured here, against real rivals, all sides in turns.

    \b
        lensmount bench engine                    K tasks beside one, beside timm, beside PEFT
        lensmount bench engine --plot bench.png   the same as a picture
        lensmount bench swap                      new versions while frames are answered
        lensmount bench capacity                  streams, tasks and adapters
        lensmount bench registry                  uploads, lists, starts, promotions by the thousand
        lensmount bench decode                    frames from a video to a backbone's input
        lensmount bench pipeline                  from a video file to results, beside the engine alone
        lensmount bench wire                      requests beside NVIDIA Triton, and Tritons as engines
        lensmount bench train                     training beside the loops that people write today
    """  # noqa: D301 - click wants the control character


def measuring(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every bench."""
    options = [
        click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True),
        click.option(
            "--engine",
            type=click.Choice(MEASURED),
            default="auto",
            show_default=True,
        ),
        click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Computing threads; 0: one a core."),
        click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object."),
    ]

    @functools.wraps(command)
    def run(*, device: str, engine: str, precision: str, threads: int, **own: Any) -> Any:
        return command(EngineSettings(engine, precision, threads, MERGED_MIB, device), **own)

    measured: Callable[..., Any] = run
    for option in reversed(options):
        measured = option(measured)
    return measured


@bench.command()
@measuring
@click.option("--rounds", type=click.IntRange(2, 1000), default=25, show_default=True, help="Runs of each side.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: a .png or .svg file."
)
def engine(settings: EngineSettings, as_json: bool, rounds: int, picture: Path | None) -> None:
    """What K tasks cost beside one, and beside what people run today (minutes).

    Random weights and pictures of the usual size: speed does not depend on values. The rivals run in their
    best form: timm eager in the fastest precision and memory format, PEFT as documented, one merged model
    a task through the same compiler.
    """
    with _progress() as progress:
        report = measure_engine(settings, rounds, _tell(progress, rounds, COMPILING))
    if picture:
        plot(report, picture)
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    Console(width=None if Console().is_terminal else 160).print(engine_table(report))


@bench.command()
@measuring
@click.option("--swaps", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--window", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True, help="Seconds a swap.")
def swap(settings: EngineSettings, as_json: bool, swaps: int, window: float) -> None:
    """Register and promote versions while frames are answered, and look for rows lost, wrong or late.

    Frames come at a steady rate that keeps the engine half busy. Windows without a swap, with one, and with
    its tail being merged take turns; every answer is held against what its version must say of that picture.
    """
    with _progress() as progress:
        report = measure_swap(settings, swaps, window, _say(progress))
    _show(asdict(report), as_json=as_json)


@bench.command()
@measuring
@click.option("--backbone", default=TRANSFORMER, show_default=True, help="timm's name of the shared model.")
@click.option(
    "--registered", type=click.IntRange(100, 100_000), default=1000, show_default=True, help="Adapters on disk."
)
@click.option("--hot", type=click.IntRange(16, 10_000), default=64, show_default=True, help="In memory.")
def capacity(settings: EngineSettings, as_json: bool, backbone: str, registered: int, hot: int) -> None:
    """How many streams, tasks and adapters this machine holds.

    Adapters stay in LoRA form where their memory is measured: merged tails have a budget of their own.
    """
    with _progress() as progress:
        report = measure_capacity(settings, backbone, registered, hot, _say(progress))
    _show(asdict(report), as_json=as_json)


@bench.command()
@measuring
@click.option("--uploads", type=click.IntRange(3, 1000), default=21, show_default=True, help="Packages of 5 MB.")
@click.option("--registered", type=click.IntRange(100, 100_000), default=10_000, show_default=True, help="To list.")
@click.option("--promotions", type=click.IntRange(10, 100_000), default=10_000, show_default=True)
def registry(settings: EngineSettings, as_json: bool, uploads: int, registered: int, promotions: int) -> None:
    """From an upload to a live answer, long lists, starts, and promotions by the thousand under load (minutes).

    The promotions run twice: once with a leak that is planted, to see that the growth of memory would show.
    """
    with _progress() as progress:
        report = measure_registry(settings, uploads, registered, promotions, _say(progress))
    _show(asdict(report), as_json=as_json)


@bench.command()
@click.option("--rounds", type=click.IntRange(2, 1000), default=9, show_default=True, help="Runs of each side.")
@click.option("--json", "as_json", is_flag=True, help="For machines: one JSON object.")
def decode(rounds: int, *, as_json: bool) -> None:
    """What a frame costs from H.264 to a backbone's input, in CPU time, and what is saved by skipping (minutes).

    Beside cv2.VideoCapture with cv2.resize and with timm's own transform, on one thread; eight sources of which
    5 frames a second are wanted beside eight that are decoded whole. The clips are made here by x264.
    """
    with _progress() as progress:
        report = measure_decode(rounds, _tell(progress, rounds, "encoding clips"))
    if as_json:
        click.echo(json.dumps(asdict(report)))
        return
    Console(width=None if Console().is_terminal else 160).print(decode_table(report))


@bench.command()
@measuring
@click.option("--backbone", default=TRANSFORMER, show_default=True, help="timm's name of the shared model.")
@click.option("--frames", type=click.IntRange(30, 10_000), default=360, show_default=True, help="Of the clip.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True, help="Runs of each side.")
def pipeline(settings: EngineSettings, as_json: bool, backbone: str, frames: int, rounds: int) -> None:
    """A 720p file through the whole server to a client, beside what the engine alone answers.

    A real `lensmount serve` reads an H.264 clip as fast as it is answered, two tasks look at every frame. Decoding
    and the engine share the cores: that is the point.
    """
    with _progress() as progress:
        report = measure_pipeline(settings, backbone, frames, rounds, _say(progress))
    _show(asdict(report), as_json=as_json)


@bench.command()
@measuring
@click.option("--cases", default=",".join(WIRE_CASES), show_default=True, metavar="LIST", help="Which, with commas.")
@click.option("--rounds", type=click.IntRange(2, 1000), default=15, show_default=True, help="Runs of each side.")
@click.option("--requests", type=click.IntRange(8, 100_000), default=400, show_default=True, help="Of a run.")
@click.option("--backbone", default=TRANSFORMER, show_default=True, help="timm's name, for the last three.")
@click.option(
    "--triton", type=click.Path(path_type=Path), envvar=TRITON, metavar="FOLDER", help=f"A Triton [{TRITON}, .triton]."
)
def wire(
    settings: EngineSettings, as_json: bool, cases: str, rounds: int, requests: int, backbone: str, triton: Path | None
) -> None:
    """What requests cost between a client and the engine, beside a real Triton (minutes).

    \b
        unary_1, unary_16    a picture a call, one or 16 in flight, beside Triton's front and Python backend
        stream_1, stream_16  the same on one stream
        engine_16            the front with a real task, beside the engine in process
        triton_backend       the engine in a Triton, beside the engine in process
        shared_memory        pictures to that Triton through shared memory, beside gRPC messages

    Triton has its fastest form in each case: six are tried. Servers and the client are processes of their own, the
    first four cases run a model that computes next to nothing, and every answer is looked at. tests/install-triton
    installs a Triton; without one, engine_16 alone is measured.
    """  # noqa: D301 - click wants the control character
    from lensmount_server.bench.wire.command import run  # noqa: PLC0415 - brings a client of Triton

    run(settings, cases, rounds, requests, backbone, triton, as_json=as_json)


def _show(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report))
        return
    console = Console()
    rows = report.pop("streams", ())
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in report.items():
        facts.add_row(name.replace("_", " "), str(value))
    console.print(facts)
    if rows:
        streams = Table(*(name.replace("_", " ") for name in rows[0]), box=None, header_style="bold", pad_edge=False)
        for row in rows:
            streams.add_row(*map(str, row.values()))
        console.print(streams)


def _say(progress: Progress) -> Callable[[str], None]:
    task = progress.add_task("", total=None)
    return lambda what: progress.update(task, description=what)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _tell(progress: Progress, rounds: int, first: str) -> Callable[[str, Rounds], None]:
    task = progress.add_task(first, total=None)

    def tell(what: str, done: Rounds) -> None:
        count = len(next(iter(done.ms.values())))
        progress.update(task, description=f"{what}: round {count} of {rounds}")

    return tell
