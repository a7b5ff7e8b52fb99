"""`lensmount bench wire`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lensmount.cli import options
from lensmount.errors import LensmountError
from lensmount_server.bench.wire import tritonserver
from lensmount_server.bench.wire.case import AGAINST_TRITON, CASES
from lensmount_server.bench.wire.real import HOSTED
from lensmount_server.bench.wire.running import measure
from lensmount_server.bench.wire.table import table_of
from lensmount_server.bench.wire.turns import Setting
from lensmount_server.engine.settings import EngineSettings

WIDTH = 160


def run(
    engine: EngineSettings, cases: str, rounds: int, requests: int, backbone: str, folder: Path | None, *, as_json: bool
) -> None:
    """Measure, and show it."""
    names = options.chosen(cases, CASES, "cases")
    triton, missing = None, ""
    if {*AGAINST_TRITON, *HOSTED} & {*names}:
        try:
            triton = tritonserver.find(folder)
        except LensmountError as error:
            if folder is not None or "engine_16" not in names:
                raise
            missing = f"{error}"
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=rounds)

        def tell(what: str, done: int) -> None:
            progress.update(bar, description=what, completed=done)

        report = measure(Setting(engine, backbone, rounds, requests, tell), names, triton, missing)
    if as_json:
        click.echo(json.dumps(report.as_object()))
        return
    console = Console(width=None if Console().is_terminal else WIDTH)
    console.print(table_of(report))
    if missing:
        console.print(f"Not measured: {missing}", style="yellow", highlight=False)
